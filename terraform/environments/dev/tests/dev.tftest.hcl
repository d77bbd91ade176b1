# terraform test -var-file=example.tfvars: the example values are accepted and reach the resources. No AWS is contacted.

mock_provider "aws" {
  override_during = plan # nothing is applied, so that nothing needs to be destroyed

  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::example-mlkit-dev-events" }
  }

  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/mock" }
  }
}

run "example_values" {
  command = plan

  assert {
    condition     = output.event_log_uri == "s3://${var.event_log_bucket}"
    error_message = "The event log is not in the bucket that was asked for."
  }

  assert {
    condition     = output.event_log_storage_options == { aws_checksum_algorithm = "SHA256", aws_region = var.region }
    error_message = "delta-rs is not told the region, or to send the checksum that object lock requires."
  }

  assert {
    condition = (
      aws_iam_policy.event_log["writer"].policy == module.event_log.writer_policy_json &&
      aws_iam_policy.event_log["reader"].policy == module.event_log.reader_policy_json
    )
    error_message = "An IAM policy is not the module's document for that kind of client."
  }
}

run "refuses_a_malformed_account" {
  command = plan

  variables {
    account_id = "example"
  }

  expect_failures = [var.account_id]
}
