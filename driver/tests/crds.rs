//! deploy/crds is generated from the types of the rules. `STILLPOINT_WRITE=1 cargo test --test crds` writes it;
//! without that the test fails when the two differ. What an API server would refuse is looked for here already.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use stillpoint_rules::kube::objects::{canonical_text, definitions};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds")
}

fn text(definition: &impl serde::Serialize) -> String {
    let yaml = serde_yaml::to_string(definition).unwrap();
    format!(
        "# Generated from rules/src/kube/objects.rs; do not edit. `STILLPOINT_WRITE=1 cargo test --test crds` writes it anew.\n{yaml}"
    )
}

fn schema(file: &str) -> Value {
    let definition = serde_json::to_value(&definitions()[file]).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_definitions_in_deploy_are_what_the_types_say() {
    for (file, definition) in definitions() {
        let path = directory().join(file);
        if std::env::var_os("STILLPOINT_WRITE").is_some() {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&path, text(&definition)).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text(&definition),
            "deploy/crds/{file} is out of date: STILLPOINT_WRITE=1 cargo test --test crds"
        );
    }
}

/// What makes a schema structural: every part has one type, and nothing is said by combining schemas.
fn structural(at: &str, schema: &Value, faults: &mut Vec<String>) {
    let Some(fields) = schema.as_object() else {
        faults.push(format!("{at}: not a schema"));
        return;
    };
    let preserved = fields.get("x-kubernetes-preserve-unknown-fields").is_some();
    if !fields.get("type").is_some_and(Value::is_string) && !preserved {
        faults.push(format!("{at}: no single type"));
    }
    for forbidden in
        ["$ref", "$schema", "$defs", "definitions", "oneOf", "anyOf", "allOf", "not", "const", "examples"]
    {
        if fields.contains_key(forbidden) {
            faults.push(format!("{at}: {forbidden}"));
        }
    }
    if fields.contains_key("properties") && fields.contains_key("additionalProperties") {
        faults.push(format!("{at}: properties and additionalProperties"));
    }
    for (name, property) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        structural(&format!("{at}.{name}"), property, faults);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get(inner) {
            structural(&format!("{at}[]"), inner, faults);
        }
    }
}

#[test]
fn the_schemas_are_structural() {
    let mut faults = Vec::new();
    for file in definitions().keys() {
        structural(file, &schema(file), &mut faults);
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_schema_that_is_not_structural_is_found() {
    let mut faults = Vec::new();
    let tagged = serde_json::json!({ "type": "object", "properties": { "a": { "oneOf": [] } } });
    structural("x", &tagged, &mut faults);
    assert_eq!(faults, ["x.a: no single type", "x.a: oneOf"]);
}

#[test]
fn a_rule_says_in_its_schema_what_its_reader_would_refuse() {
    let rule = schema("rules.yaml");
    let steps = &rule["properties"]["spec"]["properties"]["steps"];
    assert_eq!((&steps["minItems"], &steps["maxItems"]), (&1.into(), &64.into()));
    assert_eq!(steps["x-kubernetes-list-map-keys"][0], "name");
    let step = &steps["items"]["properties"];
    for part in ["before", "hold", "after"] {
        let rule = step[part]["x-kubernetes-validations"][0]["rule"].as_str().unwrap();
        let ways: &[&str] = match part {
            "hold" => &["command", "shell"],
            _ => &["command", "shell", "http", "wait"],
        };
        for way in ways {
            assert!(rule.contains(&format!("has(self.{way})")), "{part}: {rule}");
        }
    }
    let entry = &step["before"]["properties"]["env"]["items"];
    assert_eq!(entry["x-kubernetes-validations"][0]["rule"], "has(self.value) != has(self.secret)");
    assert_eq!(step["before"]["properties"]["timeout"]["type"], "string");
    assert_eq!(step["onFailure"]["enum"], serde_json::json!(["abort", "degrade", "ignore"]));
    assert_eq!(step["pods"]["properties"]["pick"]["enum"], serde_json::json!(["all", "one", "leader"]));
}

#[test]
fn the_status_of_a_run_is_a_subresource_and_of_a_rule_there_is_none() {
    let version =
        |file: &str| serde_json::to_value(&definitions()[file]).unwrap()["spec"]["versions"][0].clone();
    assert!(version("runs.yaml")["subresources"]["status"].is_object());
    assert!(version("rules.yaml")["subresources"].get("status").is_none());
    let columns: Vec<Value> = version("runs.yaml")["additionalPrinterColumns"].as_array().unwrap().clone();
    let paths: Vec<&str> = columns.iter().map(|column| column["jsonPath"].as_str().unwrap()).collect();
    assert!(paths.contains(&".status.level") && paths.contains(&".status.phase"), "{paths:?}");
}

/// Every field that the reader knows has a place in the schema, or the API server would drop it in silence.
#[test]
fn the_schema_keeps_everything_that_a_rule_can_say() {
    let secret = serde_json::json!({ "name": "db", "key": "password" });
    let env = serde_json::json!([{ "name": "MODE", "value": "fast" }, { "name": "PW", "secret": secret }]);
    let http = serde_json::json!({
        "method": "POST", "port": 9200, "path": "/flush", "status": 200, "headers": env, "body": "x",
        "tls": { "ca": secret, "serverName": "db.example" }
    });
    let spec = serde_json::json!({
        "params": [{ "name": "db", "type": "text", "default": "shop" }],
        "redact": ["token=x+"],
        "steps": [{
        "name": "lock",
        "pods": {
            "selector": {
                "matchLabels": { "app": "db" },
                "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a"] }]
            },
            "fromVolumes": true, "container": "db", "min": 2, "pick": "one",
            "where": { "shell": "is-primary", "timeout": "5s", "outputLimit": 10 }
        },
        "before": {
            "command": ["flush"], "timeout": "1m30s", "outputLimit": 100, "env": env,
            "retry": { "times": 2, "pause": "1s" }, "idempotent": true
        },
        "hold": {
            "command": ["client"], "send": ["lock"], "ready": "held",
            "probe": { "send": "x", "expect": "y" }, "finish": ["unlock"], "limit": "5s",
            "env": env, "heartbeat": "1s", "onLost": "degrade"
        },
        "after": { "wait": { "http": http, "every": "1s" } },
        "onFailure": "degrade"
    }] });
    stillpoint_rules::text::parse(&canonical_text("shop", "lock", &spec)).unwrap();
    let mut dropped = Vec::new();
    unknown("spec", &schema("rules.yaml")["properties"]["spec"], &spec, &mut dropped);
    assert_eq!(dropped, Vec::<String>::new());
}

fn unknown(at: &str, schema: &Value, value: &Value, dropped: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let at = format!("{at}.{name}");
                match (schema["properties"].get(name), schema.get("additionalProperties")) {
                    (Some(property), _) | (None, Some(property)) => unknown(&at, property, inner, dropped),
                    (None, None) => dropped.push(at),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| unknown(at, &schema["items"], item, dropped)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
