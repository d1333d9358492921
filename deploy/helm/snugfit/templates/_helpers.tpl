{{- define "snugfit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "snugfit.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "snugfit.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "snugfit.selector" -}}
app.kubernetes.io/name: {{ include "snugfit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: extender
{{- end -}}

{{- define "snugfit.labels" -}}
app.kubernetes.io/name: {{ include "snugfit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "snugfit.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "snugfit.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "snugfit.image" -}}
{{- with .Values.image -}}
{{- $repository := required "image.repository is required: the name under which you have pushed Snugfit's image, such as registry.example.com/snugfit" .repository -}}
{{- if .digest -}}{{ $repository }}@{{ .digest }}
{{- else -}}{{ $repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Without what a distribution appends to the version, such as -eks-1234567 or +k3s1. */ -}}
{{- define "snugfit.schedulerImage" -}}
{{- with .Values.scheduler.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}
{{- else -}}{{ .repository }}:{{ .tag | default (regexFind "v[0-9]+\\.[0-9]+\\.[0-9]+" $.Capabilities.KubeVersion.Version) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "snugfit.serviceHost" -}}
{{ include "snugfit.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "snugfit.serviceNames" -}}
{{ include "snugfit.serviceHost" . }},{{ include "snugfit.fullname" . }},{{ include "snugfit.serviceHost" . }}.cluster.local
{{- end -}}

{{- /* Generated ones have names of their own: the type of a Secret cannot be changed, and it depends
on who makes it. */ -}}
{{- define "snugfit.tlsSuffix" -}}
{{- ternary "generated" "tls" (eq .Values.tls.mode "generate") -}}
{{- end -}}

{{- define "snugfit.serverSecret" -}}
{{- .Values.tls.serverSecret | default (printf "%s-server-%s" (include "snugfit.fullname" .) (include "snugfit.tlsSuffix" .)) -}}
{{- end -}}

{{- define "snugfit.clientSecret" -}}
{{- .Values.tls.clientSecret | default (printf "%s-client-%s" (include "snugfit.fullname" .) (include "snugfit.tlsSuffix" .)) -}}
{{- end -}}

{{- define "snugfit.authoritySecret" -}}
{{- printf "%s-authority-generated" (include "snugfit.fullname" .) -}}
{{- end -}}

{{- define "snugfit.lease" -}}
{{- .Values.lease.name | default (printf "%s-extender" (include "snugfit.fullname" .)) -}}
{{- end -}}

{{- define "snugfit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "snugfit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
