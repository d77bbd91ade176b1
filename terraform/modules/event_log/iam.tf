# Identity policies for the two kinds of clients. What delta-rs 1.6 asks of S3, as observed:
#
#   append      GetObject, ListBucket, PutObject (large files as multipart uploads); the commit is a put that fails if
#               the key exists, so there is no temporary object to rename or delete
#   compaction  the same; replaced files are only marked as removed in the log
#   checkpoint  the same, and then, unless the table sets delta.enableExpiredLogCleanup = false, DeleteObject of
#               commits older than delta.logRetentionDuration (30 days by default)
#   vacuum      DeleteObject of data files that no retained version uses
#
# The last two make old versions of a table unreadable, which an immutable log must not do, so the writer cannot delete.
# On a versioned bucket DeleteObject only adds a delete marker, but one over a commit breaks the table at once, and once
# noncurrent_version_days have passed the hidden version is gone for good. Tables in this bucket therefore have to set
# delta.enableExpiredLogCleanup = false; otherwise a checkpoint fails, after its commit, when the first commit expires.

locals {
  objects = "${aws_s3_bucket.log.arn}/*"

  list = {
    Sid      = "List"
    Effect   = "Allow"
    Action   = ["s3:ListBucket"]
    Resource = [aws_s3_bucket.log.arn]
  }

  writer_statements = [
    local.list,
    {
      Sid      = "Append"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
      Resource = [local.objects]
    },
    # Denied, not merely withheld, so that no other policy on the same role can grant it: whatever would remove events
    # or weaken their protection. PutObjectRetention covers uploads that name a shorter retention of their own.
    {
      Sid    = "NeverEraseOrUnlock"
      Effect = "Deny"
      Action = [
        "s3:BypassGovernanceRetention",
        "s3:DeleteBucket",
        "s3:DeleteBucketPolicy",
        "s3:DeleteObjectVersion",
        "s3:PutBucketObjectLockConfiguration",
        "s3:PutBucketPolicy",
        "s3:PutBucketVersioning",
        "s3:PutLifecycleConfiguration",
        "s3:PutObjectLegalHold",
        "s3:PutObjectRetention",
      ]
      Resource = [aws_s3_bucket.log.arn, local.objects]
    },
  ]

  # Versions are included so that an auditor can read what a delete marker or an overwrite hides.
  reader_statements = [
    merge(local.list, { Action = ["s3:ListBucket", "s3:ListBucketVersions"] }),
    {
      Sid      = "Read"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:GetObjectVersion"]
      Resource = [local.objects]
    },
  ]

  # A multipart upload needs Decrypt as well as GenerateDataKey.
  kms_actions = {
    writer = ["kms:Decrypt", "kms:GenerateDataKey"]
    reader = ["kms:Decrypt"]
  }

  kms_statements = {
    for client, actions in local.kms_actions : client => [
      for arn in var.kms_key_arn[*] : { Sid = "Key", Effect = "Allow", Action = actions, Resource = [arn] }
    ]
  }
}
