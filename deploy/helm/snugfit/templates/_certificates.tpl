{{- define "snugfit.certificatesPod" -}}
metadata:
  labels:
    {{- include "snugfit.labels" . | nindent 4 }}
    app.kubernetes.io/component: certificates
spec:
  serviceAccountName: {{ include "snugfit.fullname" . }}-certificates
  automountServiceAccountToken: true
  restartPolicy: Never
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "snugfit.podSecurity" . | nindent 4 }}
  containers:
    - name: certificates
      image: {{ include "snugfit.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - certificates
        - renew
        - --in-cluster
        - --namespace={{ .Release.Namespace }}
        - --authority={{ include "snugfit.authoritySecret" . }}
        - --server={{ include "snugfit.serverSecret" . }}
        - --client={{ include "snugfit.clientSecret" . }}
        {{- range splitList "," (include "snugfit.serviceNames" .) }}
        - --host={{ . }}
        {{- end }}
        {{- with .Values.service.clusterIP }}
        - --address={{ . }}
        {{- end }}
        - --validity-days={{ int .Values.tls.generate.validityDays }}
        - --authority-days={{ int .Values.tls.generate.authorityDays }}
        - --overlap-days={{ int .Values.tls.generate.overlapDays }}
      resources:
        {{- toYaml .Values.tls.generate.resources | nindent 8 }}
      securityContext:
        {{- include "snugfit.containerSecurity" . | nindent 8 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
