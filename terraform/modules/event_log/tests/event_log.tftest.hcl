# terraform test: what the module would create, with the provider mocked. No AWS is contacted.

mock_provider "aws" {
  override_during = plan # nothing is applied, so that nothing needs to be destroyed

  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::events-test" }
  }
}

variables {
  bucket_name             = "events-test"
  retention_days          = 30
  noncurrent_version_days = 90
}

run "history_is_kept" {
  command = plan

  assert {
    condition     = aws_s3_bucket_versioning.log.versioning_configuration[0].status == "Enabled"
    error_message = "Versioning is off: an overwrite destroys what it replaces."
  }

  assert {
    condition     = aws_s3_bucket.log.object_lock_enabled
    error_message = "Object lock is off: nothing protects a version from removal."
  }

  assert {
    condition = (
      aws_s3_bucket_object_lock_configuration.log.rule[0].default_retention[0].mode == "GOVERNANCE" &&
      aws_s3_bucket_object_lock_configuration.log.rule[0].default_retention[0].days == 30
    )
    error_message = "New objects are not locked for retention_days in governance mode."
  }

  assert {
    condition     = aws_s3_bucket.log.force_destroy != true
    error_message = "Deleting the bucket would delete the events first."
  }
}

run "lifecycle_removes_only_waste" {
  command = plan

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.log.rule : rule.status == "Enabled"])
    error_message = "A lifecycle rule is switched off."
  }

  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.log.rule : length(rule.expiration) == 0])
    error_message = "A lifecycle rule expires current objects: events would be lost."
  }

  assert {
    condition = flatten([
      for rule in aws_s3_bucket_lifecycle_configuration.log.rule : rule.noncurrent_version_expiration[*].noncurrent_days
    ]) == [90]
    error_message = "Noncurrent versions are not removed after noncurrent_version_days."
  }

  assert {
    condition = flatten([
      for rule in aws_s3_bucket_lifecycle_configuration.log.rule :
      rule.abort_incomplete_multipart_upload[*].days_after_initiation
    ]) == [7]
    error_message = "Parts of unfinished uploads are kept, and billed, for ever."
  }
}

run "nothing_is_public" {
  command = plan

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.log.block_public_acls,
      aws_s3_bucket_public_access_block.log.block_public_policy,
      aws_s3_bucket_public_access_block.log.ignore_public_acls,
      aws_s3_bucket_public_access_block.log.restrict_public_buckets,
    ])
    error_message = "Public access is not fully blocked."
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.log.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "Access control lists can still grant access."
  }
}

run "bucket_policy" {
  command = plan

  assert {
    condition = contains(jsondecode(aws_s3_bucket_policy.log.policy).Statement, {
      Sid       = "DenyInsecureTransport"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::events-test", "arn:aws:s3:::events-test/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    })
    error_message = "Requests without TLS are not all refused."
  }

  assert {
    condition = contains(jsondecode(aws_s3_bucket_policy.log.policy).Statement, {
      Sid       = "DenyUnconditionalCommit"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:PutObject"
      Resource  = "arn:aws:s3:::events-test/*_delta_log/*.json"
      Condition = { Null = { "s3:if-none-match" = "true" } }
    })
    error_message = "A client that does not put conditionally can overwrite a commit."
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_s3_bucket_policy.log.policy).Statement : statement.Effect == "Deny"])
    error_message = "The bucket policy grants access; grants belong in identity policies."
  }
}

run "writer_appends_and_cannot_erase" {
  command = plan

  # The exact grants, so that a wildcard or an added action fails as well as a named one.
  assert {
    condition = [for s in jsondecode(output.writer_policy_json).Statement : [s.Action, s.Resource] if s.Effect == "Allow"] == [
      [["s3:ListBucket"], ["arn:aws:s3:::events-test"]],
      [["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], ["arn:aws:s3:::events-test/*"]],
    ]
    error_message = "The writer may do something other than list, read and append in this bucket."
  }

  assert {
    condition = length(setsubtract(
      [
        "s3:BypassGovernanceRetention", "s3:DeleteObjectVersion", "s3:PutBucketObjectLockConfiguration",
        "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutObjectRetention",
      ],
      flatten([
        for s in jsondecode(output.writer_policy_json).Statement : s.Action
        if s.Effect == "Deny" && s.Resource == ["arn:aws:s3:::events-test", "arn:aws:s3:::events-test/*"]
      ])
    )) == 0
    error_message = "Another policy on the writer's role could let it erase versions or weaken their protection."
  }

  assert {
    condition     = output.delta_storage_options.aws_checksum_algorithm == "SHA256"
    error_message = "delta-rs would send no checksum, and S3 would refuse every upload."
  }
}

run "reader_only_reads" {
  command = plan

  assert {
    condition = [for s in jsondecode(output.reader_policy_json).Statement : [s.Effect, s.Action, s.Resource]] == [
      ["Allow", ["s3:ListBucket", "s3:ListBucketVersions"], ["arn:aws:s3:::events-test"]],
      ["Allow", ["s3:GetObject", "s3:GetObjectVersion"], ["arn:aws:s3:::events-test/*"]],
    ]
    error_message = "The reader may do something other than list and read."
  }
}

run "encrypts_with_s3_keys_by_default" {
  command = plan

  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.log.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "Without a KMS key, objects are not encrypted with keys managed by S3."
  }
}

run "encrypts_with_a_given_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/test"
  }

  assert {
    condition = (
      one(aws_s3_bucket_server_side_encryption_configuration.log.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms" &&
      one(aws_s3_bucket_server_side_encryption_configuration.log.rule).apply_server_side_encryption_by_default[0].kms_master_key_id == var.kms_key_arn
    )
    error_message = "Objects are not encrypted with the given key."
  }

  assert {
    condition = {
      for client, document in { writer = output.writer_policy_json, reader = output.reader_policy_json } :
      client => [for s in jsondecode(document).Statement : s.Action if s.Resource == [var.kms_key_arn]]
      } == {
      writer = [["kms:Decrypt", "kms:GenerateDataKey"]]
      reader = [["kms:Decrypt"]]
    }
    error_message = "A client cannot use the key, or can do more with it than it needs."
  }
}

run "refuses_a_bucket_name_with_dots" {
  command = plan

  variables {
    bucket_name = "events.test"
  }

  expect_failures = [var.bucket_name]
}

run "refuses_to_keep_nothing" {
  command = plan

  variables {
    retention_days = 0
  }

  expect_failures = [var.retention_days]
}

run "refuses_to_expire_versions_that_are_still_locked" {
  command = plan

  variables {
    noncurrent_version_days = 29
  }

  expect_failures = [var.noncurrent_version_days]
}

run "refuses_a_key_alias" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/events"
  }

  expect_failures = [var.kms_key_arn]
}
