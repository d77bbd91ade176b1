variable "account_id" {
  description = "AWS account that this environment belongs to; any other is refused."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be 12 digits."
  }
}

variable "region" {
  description = "AWS region of every resource."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must look like eu-central-1."
  }
}

variable "event_log_bucket" {
  description = "Name of the event log's bucket, unique in all of S3; the module checks its form, and the two numbers below."
  type        = string
}

variable "retention_days" {
  description = "Days for which every new object version is locked."
  type        = number
  default     = 1
}

variable "noncurrent_version_days" {
  description = "Days after which an overwritten or deleted object version is removed for good."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "ARN of an existing KMS key for the event log; null encrypts with keys managed by S3."
  type        = string
  default     = null
}
