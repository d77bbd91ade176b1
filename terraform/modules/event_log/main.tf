# The bucket that holds the immutable event log: one Delta table per stream.

resource "aws_s3_bucket" "log" {
  bucket              = var.bucket_name
  object_lock_enabled = true

  # S3 refuses to delete a bucket that is not empty, but a destroy fails there only after it has removed the policy, the
  # lock and the versioning below. This refuses in the plan, before anything is touched.
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_ownership_controls" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    object_ownership = "BucketOwnerEnforced" # access control lists are off
  }
}

resource "aws_s3_bucket_public_access_block" "log" {
  bucket = aws_s3_bucket.log.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "log" {
  bucket = aws_s3_bucket.log.id

  versioning_configuration {
    status = "Enabled"
  }
}

# Governance, not compliance: a named administrator can still remove a version, for an erasure request for example, by
# asking for it explicitly (s3:BypassGovernanceRetention). S3 refuses every upload to a locked bucket that carries no
# checksum; see the output delta_storage_options.
resource "aws_s3_bucket_object_lock_configuration" "log" {
  bucket = aws_s3_bucket_versioning.log.bucket

  rule {
    default_retention {
      mode = "GOVERNANCE"
      days = var.retention_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null # one KMS call per bucket key instead of one per object

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "log" {
  bucket = aws_s3_bucket_versioning.log.bucket

  rule {
    id     = "abort-incomplete-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  # Current versions never expire. Noncurrent ones are mostly `_last_checkpoint`, which every checkpoint overwrites.
  rule {
    id     = "expire-noncurrent-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_version_days
    }
  }
}

resource "aws_s3_bucket_policy" "log" {
  bucket = aws_s3_bucket_public_access_block.log.bucket # one change to the bucket's access at a time

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "DenyInsecureTransport"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.log.arn, "${aws_s3_bucket.log.arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      # A Delta commit is atomic on S3 only as a put that fails if the key exists (If-None-Match: *). delta-rs sends
      # that by default; here S3 refuses a commit from any client that does not, so none can overwrite another's.
      {
        Sid       = "DenyUnconditionalCommit"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = "${aws_s3_bucket.log.arn}/*_delta_log/*.json"
        Condition = { Null = { "s3:if-none-match" = "true" } }
      },
    ]
  })
}
