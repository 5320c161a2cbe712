{{/* What every pod has. Call: (list $ "component" values). */}}
{{- define "dtq.podSpec" -}}
{{- $root := first . }}{{ $component := index . 1 }}{{ $own := index . 2 }}
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
# Service variables such as DTQ_API_PORT would be read as settings.
enableServiceLinks: false
securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The container that `kubectl logs` and `kubectl exec` mean, and the pod's own annotations.
     Call: (list "container" annotations). */}}
{{- define "dtq.podAnnotations" -}}
{{- merge (dict) (index . 1) (dict "kubectl.kubernetes.io/default-container" (first .)) | toYaml }}
{{- end }}

{{/* Soft spread over zones and nodes. Call: (list $ "component" values). */}}
{{- define "dtq.spread" -}}
{{- $root := first . }}{{ $own := index . 2 }}
topologySpreadConstraints:
{{- if $own.topologySpreadConstraints }}
  {{- toYaml $own.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "dtq.selector" (list $root (index $ 1)) | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where Postgres and RabbitMQ are; credentials are files. Call with the root. */}}
{{- define "dtq.backendEnv" -}}
- name: DB_DSN_FILE
  value: /run/secrets/dtq/database/dsn
- name: RMQ_USER_FILE
  value: /run/secrets/dtq/rabbitmq/username
- name: RMQ_PASS_FILE
  value: /run/secrets/dtq/rabbitmq/password
- name: RMQ_HOST
  value: {{ include "dtq.rabbitmqHost" . | quote }}
- name: RMQ_PORT
  value: {{ .Values.rabbitmq.port | quote }}
- name: RMQ_VHOST
  value: {{ .Values.rabbitmq.vhost | quote }}
- name: RMQ_TLS
  value: {{ ternary "on" "off" .Values.rabbitmq.tls | quote }}
{{- if .Values.rabbitmq.existingSecretKeys.ca }}
- name: SSL_CERT_FILE
  value: /run/secrets/dtq/rabbitmq/ca.crt
{{- end }}
- name: RMQ_NAMESPACE
  value: {{ .Values.rabbitmq.prefix | quote }}
# Until a QueueSet is declared, a default one of this name exists, which the declared one takes over.
- name: DTQ_QUEUE_SET
  value: {{ .Values.queueSet | quote }}
- name: DTQ_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- range $name, $value := .Values.config }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "dtq.mounts" -}}
- name: credentials
  mountPath: /run/secrets/dtq
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end }}

{{/* Credentials as files that follow their Secrets. Call: (list $ "secret of the DSN" "its key"). */}}
{{- define "dtq.volumes" -}}
{{- $root := first . }}
- name: credentials
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ index . 1 }}
          items:
            - {key: {{ index . 2 }}, path: database/dsn}
      - secret:
          name: {{ include "dtq.rabbitmqSecret" $root }}
          items:
            - {key: {{ $root.Values.rabbitmq.existingSecretKeys.username }}, path: rabbitmq/username}
            - {key: {{ $root.Values.rabbitmq.existingSecretKeys.password }}, path: rabbitmq/password}
            {{- with $root.Values.rabbitmq.existingSecretKeys.ca }}
            - {key: {{ . }}, path: rabbitmq/ca.crt}
            {{- end }}
      {{- with $root.Values.database.existingSecretCaKey }}
      - secret:
          name: {{ include "dtq.databaseSecret" $root }}
          items:
            - {key: {{ . }}, path: database/ca.crt}
      {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- end }}

{{/* Keeps a pod from starting on a schema that is older than its code. Call with the root. */}}
{{- define "dtq.schemaGate" -}}
- name: schema
  image: {{ include "dtq.image" (list . dict) }}
  imagePullPolicy: {{ include "dtq.pullPolicy" (list . dict) }}
  args: [migrate, --check, --wait, 15m]
  securityContext: {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  resources: {{- toYaml .Values.migrations.resources | nindent 4 }}
  env: {{- include "dtq.backendEnv" . | nindent 4 }}
  volumeMounts: {{- include "dtq.mounts" . | nindent 4 }}
{{- end }}

{{/* Probes of a process. Call: (list "port name" "liveness seconds"). */}}
{{- define "dtq.probes" -}}
# The first probe comes after the process has loaded its modules: a refused connection causes a Warning event.
startupProbe:
  httpGet: {path: /livez, port: {{ . }}}
  initialDelaySeconds: 5
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
{{- end }}
