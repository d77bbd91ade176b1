output "event_log_uri" {
  description = "Root of the event log."
  value       = module.event_log.uri
}

output "event_log_storage_options" {
  description = "Storage options for delta-rs, to be used with event_log_uri."
  value       = merge(module.event_log.delta_storage_options, { aws_region = var.region })
}

output "event_log_policy_arns" {
  description = "IAM policies of the event log's clients, by kind: writer and reader."
  value       = { for client, policy in aws_iam_policy.event_log : client => policy.arn }
}
