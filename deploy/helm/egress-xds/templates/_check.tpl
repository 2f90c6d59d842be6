{{- /* What can't be rendered is refused in words; values.schema.json says the rest. */}}
{{- define "egress-xds.check" -}}
{{- range list "image" "tls" "tokens" "admission" "injector" "status" "rbac" "networkPolicy" "podDisruptionBudget" "metrics" }}
{{- if not (kindIs "map" (index $.Values .)) }}
{{- fail (printf "the values have no section `%s`: they are those of an older chart (--reuse-values); upgrade with --reset-then-reuse-values, which keeps yours and adds what is new" .) }}
{{- end }}
{{- end }}
{{- if not (has .Values.tls.mode (list "generated" "certManager" "secret")) }}
{{- fail (printf "tls.mode %v is unknown; it is generated, certManager or secret" .Values.tls.mode) }}
{{- end }}
{{- if not (has .Values.tokens.source (list "cluster" "review" "off")) }}
{{- fail (printf "tokens.source %v is unknown; it is cluster, review or \"off\", which YAML wants in quotes" .Values.tokens.source) }}
{{- end }}
{{- end }}
