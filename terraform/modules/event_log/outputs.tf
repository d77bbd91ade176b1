output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.log.bucket
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.log.arn
}

output "uri" {
  description = "Root of the event log; each stream is a Delta table below it."
  value       = "s3://${aws_s3_bucket.log.bucket}"
}

output "delta_storage_options" {
  description = "Options that delta-rs needs for this bucket: uploads to a bucket with object lock must carry a checksum, and by default delta-rs sends none."
  value       = { aws_checksum_algorithm = "SHA256" }
}

output "writer_policy_json" {
  description = "IAM policy of the ingest writer: list, read and append; never delete a version or lift its lock."
  value       = jsonencode({ Version = "2012-10-17", Statement = concat(local.writer_statements, local.kms_statements.writer) })
}

output "reader_policy_json" {
  description = "IAM policy of a reader: list and read."
  value       = jsonencode({ Version = "2012-10-17", Statement = concat(local.reader_statements, local.kms_statements.reader) })
}
