terraform {
  required_version = "~> 1.11" # the first with S3 state locking that needs no DynamoDB table

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  backend "s3" {} # bucket, key and region come from -backend-config; see the README
}
