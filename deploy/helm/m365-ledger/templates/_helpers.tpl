{{- define "m365-ledger.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "m365-ledger.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "m365-ledger.labels" -}}
{{ include "m365-ledger.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What the webhook of Azure Workload Identity wants to find, besides what the user adds. */}}
{{- define "m365-ledger.serviceAccountAnnotations" -}}
{{- $client := dict }}
{{- if and (eq .Values.auth "workload-identity") .Values.settings.TENANT__CLIENT_ID }}
{{- $_ := set $client "azure.workload.identity/client-id" .Values.settings.TENANT__CLIENT_ID }}
{{- end }}
{{- with merge (deepCopy .Values.serviceAccount.annotations) $client }}
{{- toYaml . }}
{{- end }}
{{- end }}
