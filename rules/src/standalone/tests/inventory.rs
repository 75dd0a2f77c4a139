//! The inventory and its file.

use super::*;

const INVENTORY: &str = "
pods:
- name: db-1
  namespace: shop
  labels: {app: db}
  host: node-b
  containers: [cassandra, side]
  volumes: [data-1, wal-1]
  exec: [nsenter, -t, '4711', -m, --]
  env: {JAVA_HOME: /opt/java}
  cwd: /tmp
- name: db-0
  host: node-a
";

struct Known;

#[async_trait::async_trait]
impl VolumeNames for Known {
    async fn ids(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        Ok(names.iter().filter(|n| *n != "wal-1").map(|n| (n.clone(), format!("id-{n}"))).collect())
    }
}

#[tokio::test]
async fn an_inventory_is_read_with_its_defaults_and_its_volumes_resolved() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), INVENTORY).unwrap();
    let inventory = StandalonePods::from_file(file.path().to_owned(), Arc::new(Known), None).unwrap();
    let pods = inventory.pods(&[]).await.unwrap();
    assert_eq!(
        (pods[0].namespace.as_str(), pods[0].containers.ordinary.as_slice()),
        ("default", &["main".to_owned()][..])
    );
    assert_eq!(pods[0].state, PodState::Ready);
    assert_eq!(pods[1].volumes, ["id-data-1"]);
    assert_eq!(pods[1].state, PodState::NotReady("its volume `wal-1` does not exist".into()));
    assert_eq!(inventory.pods(&["shop".into()]).await.unwrap().len(), 1);
    let uid = pods[1].uid.clone();
    std::fs::write(file.path(), INVENTORY.replace("4711", "4712")).unwrap();
    let pods = inventory.pods(&["shop".into()]).await.unwrap();
    assert_ne!(pods[0].uid, uid, "another process is another incarnation");
    std::fs::write(file.path(), "pods: nonsense").unwrap();
    let error = inventory.pods(&[]).await.unwrap_err().to_string();
    assert!(error.contains("line 1, column 7: pods: this is text"), "{error}");
}

#[test]
fn mistakes_in_an_inventory_are_named() {
    let table = [
        ("pods: [{name: a}]", "pods[0]: `host` is missing"),
        ("pods: [{name: a, host: h, lables: {}}]", "did you mean `labels`?"),
        ("pods: [{name: a, host: h}, {name: a, host: i}]", "a second pod default/a"),
        ("pods: [{name: a, host: h, cwd: tmp}]", "a relative path"),
        ("pods: [{name: a, host: h, exec: [nsenter, -t, 4711]}]", "pods[0].exec[2]: this is a number"),
        ("pods: [{name: A_b, host: h}]", "`A_b` is not a valid name"),
        ("pds: []", "did you mean `pods`"),
    ];
    for (text, expected) in table {
        let error = parse_inventory(text, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let value = serde_json::json!([{ "name": "a", "host": "h" }]);
    assert_eq!(pods_from_value(&value, None).unwrap()[0].name, "a");
    assert!(pods_from_value(&serde_json::json!("x"), None).is_err());
    let hosts = ["h".to_owned(), "i".to_owned()];
    assert!(pods_from_value(&value, Some(&hosts)).is_ok());
    let error = parse_inventory("pods: [{name: a, host: hh}]", Some(&hosts)).unwrap_err().to_string();
    assert!(error.contains("there is no host `hh`") && error.contains("the agents are on h, i"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_inventory_reader_panic(text in "\\PC{0,120}") {
        let _ = parse_inventory(&text, None);
    }
}
