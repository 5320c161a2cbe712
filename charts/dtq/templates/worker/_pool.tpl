{{/* A pool's values over those of workers.defaults, as YAML. Call: (list $ pool) */}}
{{- define "dtq.pool" -}}
{{- mergeOverwrite (deepCopy (first .).Values.workers.defaults) (deepCopy (default dict (last .))) | toYaml }}
{{- end }}

{{/* A pool's Deployment and what belongs to it. Call: (list $ "pool") */}}
{{- define "dtq.poolName" -}}
{{ include "dtq.fullname" (first .) }}-worker-{{ last . }}
{{- end }}
