# Copy to dev.tfvars, fill in and commit: it holds no secrets, and a rollback needs the values as well as the code.

account_id       = "123456789012"
region           = "eu-central-1"
event_log_bucket = "example-mlkit-dev-events"

retention_days          = 1
noncurrent_version_days = 30

# kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
