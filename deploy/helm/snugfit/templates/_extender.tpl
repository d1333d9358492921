{{- define "snugfit.extenderContainer" -}}
image: {{ include "snugfit.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/snugfit/extender.yaml]
ports:
  {{- if eq .Values.topology "service" }}
  - {name: extender, containerPort: 10262}
  {{- end }}
  - {name: status, containerPort: 10263}
  {{- if include "snugfit.metrics" . }}
  - {name: metrics, containerPort: 10264}
  {{- end }}
startupProbe:
  httpGet: {path: /readyz, port: status}
  periodSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: status}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- if eq .Values.topology "service" }}
  # The Service leads to the holder of the lease; the others know the cluster and wait.
  {{- end }}
  httpGet: {path: {{ ternary "/readyz" "/activez" (eq .Values.topology "sidecar") }}, port: status}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: {{ ternary 3 1 (eq .Values.topology "sidecar") }}
resources:
  {{- toYaml .Values.extender.resources | nindent 2 }}
securityContext:
  {{- include "snugfit.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/snugfit, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if include "snugfit.metricsVolume" . }}
  - {name: metrics-tls, mountPath: /etc/snugfit-metrics-tls, readOnly: true}
  {{- end }}
  {{- if ne (include "snugfit.extenderAccount" .) (include "snugfit.serviceAccount" .) }}
  - {name: extender-account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  {{- end }}
  {{- if eq .Values.topology "service" }}
  - {name: tls, mountPath: /etc/snugfit-tls, readOnly: true}
  {{- end }}
{{- end -}}
