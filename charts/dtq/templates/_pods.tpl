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

{{/* Where Postgres is; the DSN is a file. Call with the root. */}}
{{- define "dtq.databaseEnv" -}}
- name: DB_DSN_FILE
  value: /run/secrets/dtq/database/dsn
- name: DTQ_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- range $name, $value := .Values.config }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Where Postgres and RabbitMQ are; credentials are files. Call with the root. */}}
{{- define "dtq.backendEnv" -}}
{{ include "dtq.databaseEnv" . }}
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
- name: RMQ_CA_FILE
  value: /run/secrets/dtq/rabbitmq/ca.crt
{{- end }}
- name: RMQ_NAMESPACE
  value: {{ .Values.rabbitmq.prefix | quote }}
# Until a QueueSet is declared, a default one of this name exists, which the declared one takes over.
- name: DTQ_QUEUE_SET
  value: {{ .Values.queueSet | quote }}
{{- end }}

{{- define "dtq.databaseMounts" -}}
- {name: database, mountPath: /run/secrets/dtq/database, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "dtq.mounts" -}}
{{ include "dtq.databaseMounts" . }}
- {name: rabbitmq, mountPath: /run/secrets/dtq/rabbitmq, readOnly: true}
{{- end }}

{{/* The DSN as a file that follows its Secret. Call: (list $ "secret" "key of the DSN"). */}}
{{- define "dtq.databaseVolumes" -}}
{{- $root := first . }}
- name: database
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
    items:
      - {key: {{ index . 2 }}, path: dsn}
      {{- with $root.Values.database.existingSecretCaKey }}
      - {key: {{ . }}, path: ca.crt}
      {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- end }}

{{/* A process's credentials, and no other's. Call: (list $ values) with its databaseSecret and rabbitmqSecret. */}}
{{- define "dtq.volumes" -}}
{{- $root := first . }}{{ $own := last . }}{{ $keys := $root.Values.rabbitmq.existingSecretKeys }}
{{- include "dtq.databaseVolumes" (list $root (include "dtq.databaseSecret" (list $root $own.databaseSecret)) $root.Values.database.existingSecretKey) }}
- name: rabbitmq
  secret:
    secretName: {{ include "dtq.rabbitmqSecret" (list $root $own.rabbitmqSecret) }}
    defaultMode: 0440
    items:
      - {key: {{ $keys.username }}, path: username}
      - {key: {{ $keys.password }}, path: password}
      {{- with $keys.ca }}
      - {key: {{ . }}, path: ca.crt}
      {{- end }}
{{- end }}

{{/* Keeps a pod from starting on a schema that is older than its code. Call with the root. */}}
{{- define "dtq.schemaGate" -}}
- name: schema
  image: {{ include "dtq.image" (list . dict) }}
  imagePullPolicy: {{ include "dtq.pullPolicy" (list . dict) }}
  args: [migrate, --check, --wait, 15m]
  securityContext: {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  resources: {{- toYaml .Values.migrations.resources | nindent 4 }}
  env: {{- include "dtq.databaseEnv" . | nindent 4 }}
  volumeMounts: {{- include "dtq.databaseMounts" . | nindent 4 }}
{{- end }}

{{/* Probes of a process. Call: (list "port name" "scheme"). */}}
{{- define "dtq.probes" -}}
{{- $port := first . }}{{ $scheme := last . }}
# The first probe comes after the process has loaded its modules: a refused connection causes a Warning event.
startupProbe:
  httpGet: {path: /livez, port: {{ $port }}, scheme: {{ $scheme }}}
  initialDelaySeconds: 5
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ $port }}, scheme: {{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ $port }}, scheme: {{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
{{- end }}
