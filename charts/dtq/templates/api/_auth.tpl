{{- define "dtq.authEnv" -}}
{{- $auth := .Values.api.auth }}
- name: DTQ_AUTH
  value: "on"
{{- if $auth.existingSecret }}
- name: DTQ_AUTH_TOKENS_FILE
  value: /run/secrets/dtq-auth/tokens
{{- end }}
{{- if $auth.tokenReview }}
- name: DTQ_AUTH_AUDIENCE
  value: {{ $auth.audience | quote }}
{{- end }}
{{- if $auth.policy }}
- name: DTQ_AUTH_POLICY_FILE
  value: /etc/dtq/policy.yaml
{{- end }}
{{- end }}

{{- define "dtq.authMounts" -}}
{{- $auth := .Values.api.auth }}
{{- if $auth.existingSecret }}
- {name: auth, mountPath: /run/secrets/dtq-auth, readOnly: true}
{{- end }}
{{- if $auth.policy }}
- {name: policy, mountPath: /etc/dtq, readOnly: true}
{{- end }}
{{- end }}

{{- define "dtq.authVolumes" -}}
{{- $auth := .Values.api.auth }}
{{- if $auth.existingSecret }}
- name: auth
  secret:
    secretName: {{ $auth.existingSecret }}
    defaultMode: 0440
    items:
      - {key: {{ $auth.existingSecretKey }}, path: tokens}
{{- end }}
{{- if $auth.policy }}
- name: policy
  configMap:
    name: {{ include "dtq.fullname" . }}-policy
{{- end }}
{{- end }}
