variable "bucket_name" {
  description = "Name of the bucket, unique in all of S3. No dots: they break TLS on virtual-hosted addresses."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name must be 3 to 63 lower-case letters, digits and hyphens, and begin and end with a letter or digit."
  }
}

variable "retention_days" {
  description = "Days for which every new object version is locked (governance mode). A change applies to objects written after it."
  type        = number
  default     = 365

  validation {
    condition     = var.retention_days >= 1 && var.retention_days == floor(var.retention_days)
    error_message = "retention_days must be a whole number of days, at least 1."
  }
}

variable "noncurrent_version_days" {
  description = "Days after which an overwritten or deleted object version is removed for good: the time left to undo a mistake."
  type        = number
  default     = 730

  validation {
    condition     = var.noncurrent_version_days >= var.retention_days && var.noncurrent_version_days == floor(var.noncurrent_version_days)
    error_message = "noncurrent_version_days must be a whole number of days, at least retention_days: a locked version cannot be removed earlier."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the objects; null encrypts with keys managed by S3 (SSE-S3). The key's own policy must let IAM policies of its account grant its use."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key (arn:aws:kms:region:account:key/id), not of an alias: IAM does not resolve aliases."
  }
}
