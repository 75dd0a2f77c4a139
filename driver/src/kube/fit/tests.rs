use serde_json::{Value, json};

use super::*;

fn node(change: &Value) -> Node {
    let mut node = json!({
        "metadata": { "name": "n", "labels": { "zone": "z1", "disk": "ssd", "cores": "8" } },
        "spec": {},
        "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "10" } },
    });
    merge(&mut node, change);
    serde_json::from_value(node).unwrap()
}

fn pod(spec: &Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": "p", "labels": { "app": "db" } },
        "spec": { "containers": [{ "name": "main" }] },
    });
    merge(&mut pod["spec"], spec);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn asks(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "main", "resources": { "requests": { "cpu": cpu } } }] })
}

/// `yes`, or the beginning of the answer.
fn answer(spec: &Value, at: &Value, others: &[Pod]) -> String {
    match fit(&pod(spec), &node(at), &[], others) {
        Fit::Fits => "yes".into(),
        Fit::Unsure(why) => format!("unsure: {why}"),
        Fit::Refuses(why) => format!("no: {why}"),
    }
}

fn affinity(expression: &Value) -> Value {
    json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution":
        { "nodeSelectorTerms": [{ "matchExpressions": [expression] }] } } } })
}

#[test]
fn what_rules_a_node_out_for_good_is_found() {
    let nothing = json!({});
    let tainted = json!({ "spec": { "taints": [{ "key": "gpu", "value": "a", "effect": "NoSchedule" }] } });
    let soft = json!({ "spec": { "taints": [{ "key": "gpu", "effect": "PreferNoSchedule" }] } });
    let cordoned = json!({ "spec": { "unschedulable": true } });
    let tolerates = |toleration: Value| json!({ "tolerations": [toleration] });
    let table = [
        (json!({}), &nothing, "yes"),
        (json!({ "nodeSelector": { "zone": "z1" } }), &nothing, "yes"),
        (json!({ "nodeSelector": { "zone": "z2" } }), &nothing, "no: node n lacks the label zone=z2"),
        (affinity(&json!({ "key": "disk", "operator": "In", "values": ["ssd", "nvme"] })), &nothing, "yes"),
        (affinity(&json!({ "key": "disk", "operator": "NotIn", "values": ["ssd"] })), &nothing, "no:"),
        (affinity(&json!({ "key": "gpu", "operator": "Exists" })), &nothing, "no:"),
        (affinity(&json!({ "key": "gpu", "operator": "DoesNotExist" })), &nothing, "yes"),
        (affinity(&json!({ "key": "cores", "operator": "Gt", "values": ["4"] })), &nothing, "yes"),
        (affinity(&json!({ "key": "cores", "operator": "Lt", "values": ["4"] })), &nothing, "no:"),
        (affinity(&json!({ "key": "cores", "operator": "Like", "values": ["8"] })), &nothing, "no:"),
        (json!({}), &tainted, "no: node n has the taint gpu"),
        (json!({}), &soft, "yes"),
        (tolerates(json!({ "key": "gpu", "value": "a" })), &tainted, "yes"),
        (tolerates(json!({ "key": "gpu", "value": "b" })), &tainted, "no:"),
        (tolerates(json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" })), &tainted, "no:"),
        (tolerates(json!({ "operator": "Exists" })), &tainted, "yes"),
        (json!({}), &cordoned, "no: node n has the taint node.kubernetes.io/unschedulable"),
        (tolerates(json!({ "operator": "Exists" })), &cordoned, "yes"),
    ];
    for (spec, at, expected) in table {
        let answer = answer(&spec, at, &[]);
        assert!(answer.starts_with(expected), "{spec} on {at}: {answer}");
    }
}

#[test]
fn a_volume_that_is_elsewhere_rules_a_node_out() {
    let reachable = |zone: &str| -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": { "name": "pvc-1" },
            "spec": { "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "zone", "operator": "In", "values": [zone] }] }
            ] } } }
        }))
        .unwrap()
    };
    let everywhere: PersistentVolume = serde_json::from_value(json!({ "metadata": {}, "spec": {} })).unwrap();
    let at = node(&json!({}));
    assert_eq!(fit(&pod(&json!({})), &at, &[reachable("z1"), everywhere], &[]), Fit::Fits);
    let Fit::Refuses(why) = fit(&pod(&json!({})), &at, &[reachable("z1"), reachable("z2")], &[]) else {
        panic!("it cannot reach both")
    };
    assert!(why.contains("cannot reach its volume pvc-1"), "{why}");
}

#[test]
fn what_only_the_scheduler_can_tell_is_not_sure() {
    let nothing = json!({});
    let apart = json!([{ "topologyKey": "kubernetes.io/hostname" }]);
    let apart = json!({ "requiredDuringSchedulingIgnoredDuringExecution": apart });
    let spread = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" });
    let soft = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway" });
    let port =
        json!({ "containers": [{ "name": "main", "ports": [{ "containerPort": 1, "hostPort": 80 }] }] });
    let table = [
        (json!({ "affinity": { "podAntiAffinity": apart } }), "unsure"),
        (json!({ "affinity": { "podAffinity": apart } }), "unsure"),
        (json!({ "affinity": { "podAntiAffinity": {} } }), "yes"),
        (json!({ "topologySpreadConstraints": [spread] }), "unsure"),
        (json!({ "topologySpreadConstraints": [soft] }), "yes"),
        (json!({ "schedulerName": "mine" }), "unsure"),
        (json!({ "schedulerName": "default-scheduler" }), "yes"),
        (json!({ "resourceClaims": [{ "name": "gpu" }] }), "unsure"),
        (json!({ "hostNetwork": true }), "unsure"),
        (port, "unsure"),
    ];
    for (spec, expected) in table {
        let answer = answer(&spec, &nothing, &[]);
        assert!(answer.starts_with(expected), "{spec}: {answer}");
    }
    let aloof = |labels: Value| {
        pod(&json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": labels } }
        ] } } }))
    };
    assert!(answer(&json!({}), &nothing, &[aloof(json!({ "app": "db" }))]).starts_with("unsure"));
    assert_eq!(answer(&json!({}), &nothing, &[aloof(json!({ "app": "web" }))]), "yes");
}

#[test]
fn a_node_must_have_enough_left_of_everything() {
    let nothing = json!({});
    let others = [pod(&asks("1500m"))];
    assert_eq!(answer(&asks("500m"), &nothing, &others), "yes");
    assert!(answer(&asks("501m"), &nothing, &others).contains("too little cpu"));
    let starting =
        json!({ "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "1" } } }] });
    assert!(answer(&starting, &nothing, &others).contains("too little cpu"), "an init container counts");
    let device = json!({ "containers": [{ "name": "main", "resources": { "requests": { "x/gpu": "1" } } }] });
    assert!(answer(&device, &nothing, &[]).contains("too little x/gpu"));
    let full: Vec<Pod> = (0..10).map(|_| pod(&json!({}))).collect();
    assert!(answer(&json!({}), &nothing, &full).contains("too little pods"));
    let odd = json!({ "status": { "allocatable": { "cpu": "many" } } });
    assert!(answer(&json!({}), &odd, &[]).starts_with("unsure"));
}

#[test]
fn quantities_are_read_as_kubernetes_writes_them() {
    let read = |text: &str| thousandths(&Quantity(text.into()));
    for (text, expected) in [
        ("100m", 100),
        ("1.5", 1500),
        ("2Gi", (2_i128 << 30) * 1000),
        ("1e3", 1_000_000),
        ("3k", 3_000_000),
        ("1n", 1),
        ("0", 0),
        ("8Ei", (8_i128 << 60) * 1000),
    ] {
        assert_eq!(read(text), Some(expected), "{text}");
    }
    for wrong in ["", "Gi", "-", "1.2.3", "many", "1e99", "99999999999999999999"] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
}
