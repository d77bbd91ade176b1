provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = {
      project     = "mlkit"
      environment = "dev"
      managed_by  = "terraform"
    }
  }
}

module "event_log" {
  source = "../../modules/event_log"

  bucket_name             = var.event_log_bucket
  retention_days          = var.retention_days
  noncurrent_version_days = var.noncurrent_version_days
  kms_key_arn             = var.kms_key_arn
}

# Attach these to the roles that the ingest jobs and the readers run under.
resource "aws_iam_policy" "event_log" {
  for_each = {
    writer = module.event_log.writer_policy_json
    reader = module.event_log.reader_policy_json
  }

  name   = "${module.event_log.bucket}-${each.key}"
  policy = each.value
}
