{{- define "dtq.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "dtq.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "dtq.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "dtq.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects pods; never changed, since a Deployment's selector cannot be. Call: (list $ "component") */}}
{{- define "dtq.selector" -}}
app.kubernetes.io/name: {{ include "dtq.name" (first .) }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* The labels of every object. Call: (list $ "component") */}}
{{- define "dtq.labels" -}}
{{ include "dtq.selector" . }}
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
app.kubernetes.io/part-of: dtq
helm.sh/chart: {{ printf "%s-%s" (first .).Chart.Name (first .).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image. Call: (list $ image) where image overrides .Values.image part by part. */}}
{{- define "dtq.image" -}}
{{- $root := first . }}
{{- $image := mergeOverwrite (deepCopy $root.Values.image) (default dict (last .)) }}
{{- $registry := default $root.Values.global.imageRegistry $image.registry }}
{{- $name := ternary $image.repository (printf "%s/%s" $registry $image.repository) (empty $registry) }}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{- define "dtq.pullPolicy" -}}
{{- (mergeOverwrite (deepCopy (first .).Values.image) (default dict (last .))).pullPolicy }}
{{- end }}

{{/* A component's ServiceAccount. Call: (list $ "component" values) */}}
{{- define "dtq.serviceAccount" -}}
{{- $own := index . 2 }}
{{- if $own.serviceAccount.create -}}
{{- default (printf "%s-%s" (include "dtq.fullname" (first .)) (index . 1)) $own.serviceAccount.name }}
{{- else -}}
{{- default "default" $own.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* A process's Secret for Postgres: its own, or the shared one. Call: (list $ "its own") */}}
{{- define "dtq.databaseSecret" -}}
{{- $root := first . }}
{{- if $root.Values.demo.postgres.enabled -}}
{{ include "dtq.fullname" $root }}-demo-postgres
{{- else -}}
{{ required "database.existingSecret: name a Secret that holds the DSN of Postgres, or one of each process in databaseSecret, or set demo.postgres.enabled=true to try dtq out" (default $root.Values.database.existingSecret (last .)) }}
{{- end }}
{{- end }}

{{/* A process's Secret for RabbitMQ: its own, or the shared one. Call: (list $ "its own") */}}
{{- define "dtq.rabbitmqSecret" -}}
{{- $root := first . }}
{{- if $root.Values.demo.rabbitmq.enabled -}}
{{ include "dtq.fullname" $root }}-demo-rabbitmq
{{- else -}}
{{ required "rabbitmq.existingSecret: name a Secret that holds the user and password of RabbitMQ, or one of each process in rabbitmqSecret, or set demo.rabbitmq.enabled=true to try dtq out" (default $root.Values.rabbitmq.existingSecret (last .)) }}
{{- end }}
{{- end }}

{{- define "dtq.rabbitmqHost" -}}
{{- if .Values.demo.rabbitmq.enabled -}}
{{ include "dtq.fullname" . }}-demo-rabbitmq
{{- else -}}
{{ required "rabbitmq.host: say where RabbitMQ is, or set demo.rabbitmq.enabled=true to try dtq out" .Values.rabbitmq.host }}
{{- end }}
{{- end }}

{{/* The namespaces that the operator looks at, as a JSON list; none means all of them. */}}
{{- define "dtq.watched" -}}
{{- if .Values.operator.clusterWide -}}
[]
{{- else -}}
{{ default (list .Release.Namespace) .Values.operator.watchNamespaces | toJson }}
{{- end }}
{{- end }}

{{- define "dtq.apiScheme" -}}
{{- ternary "https" "http" (not (empty .Values.api.tls.existingSecret)) }}
{{- end }}

{{- define "dtq.apiUrl" -}}
{{ include "dtq.apiScheme" . }}://{{ include "dtq.fullname" . }}-api.{{ .Release.Namespace }}.svc:{{ .Values.api.service.port }}
{{- end }}
