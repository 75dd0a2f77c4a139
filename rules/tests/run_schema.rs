//! docs/run.schema.json is generated from the record of a run. `STILLPOINT_WRITE=1 cargo test -p stillpoint-rules
//! --all-features --test run_schema` writes it; without that the test fails when the two differ.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used)] // what tests call is a test

use std::path::Path;

use serde_json::Value;
use stillpoint_rules::failure::{Failure, FailureKind};
use stillpoint_rules::run::{Run, schema};

#[test]
fn the_schema_in_the_docs_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run.schema.json");
    let text = format!("{:#}\n", schema());
    if std::env::var_os("STILLPOINT_WRITE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/run.schema.json is out of date: STILLPOINT_WRITE=1 cargo test --test run_schema"
    );
}

/// Every field of a record, and every field that must be there.
#[test]
fn a_record_has_the_fields_that_the_schema_names() {
    let mut run = Run::new("cut", Some("rule"), jiff::Timestamp::UNIX_EPOCH);
    run.failures.push(Failure::of_step(FailureKind::Before, "flush", "why"));
    let record = serde_json::to_value(&run).unwrap();
    let schema = schema();
    let check = |value: &Value, schema: &Value| {
        for key in value.as_object().unwrap().keys() {
            assert!(schema["properties"].get(key).is_some(), "{key} is not in the schema");
        }
        for key in schema["required"].as_array().unwrap() {
            assert!(value.get(key.as_str().unwrap()).is_some(), "{key} is missing");
        }
    };
    check(&record, &schema);
    check(&record["failures"][0], &schema["$defs"]["Failure"]);
    assert_eq!(record["failures"][0]["kind"], "before");
}
