{{- define "egress-xds.selector" -}}
app.kubernetes.io/name: egress-xds
{{- end }}
{{- define "egress-xds.labels" -}}
app.kubernetes.io/name: egress-xds
app.kubernetes.io/part-of: egress-xds
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: egress-xds-{{ .Chart.Version }}
{{- end }}
