{{- /* Whom the extender acts as; beside kube-scheduler that is the pod's own account, unless it is
given one of its own. */ -}}
{{- define "snugfit.extenderAccount" -}}
{{- $own := .Values.serviceAccount.extender -}}
{{- if and $own.separate (eq .Values.topology "sidecar") -}}
{{- $own.name | default (printf "%s-extender" (include "snugfit.fullname" .)) -}}
{{- else -}}
{{- include "snugfit.serviceAccount" . -}}
{{- end -}}
{{- end -}}

{{- define "snugfit.extenderUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "snugfit.extenderAccount" . }}
{{- end -}}
