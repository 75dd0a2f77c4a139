use std::os::unix::fs::PermissionsExt;

use super::*;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_first_run_makes_everything_and_keys_are_private() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pki");
    let issued = init(&dir, &[host("a"), host("node-1.example.com")]).unwrap();
    assert!(issued.iter().all(|issued| issued.origin == Origin::Made && issued.warning.is_none()));
    let certificates = ["ca.crt", "controller.crt", "agents/a.crt", "agents/node-1.example.com.crt"]
        .map(|name| dir.join(name));
    assert_eq!(issued.iter().map(|issued| issued.certificate.clone()).collect::<Vec<_>>(), certificates);
    for certificate in certificates {
        assert_eq!(mode(&key_path(&certificate)), 0o600);
        assert_eq!(mode(&certificate), 0o644);
    }
    assert_eq!(mode(&dir), 0o700);
    assert!(issued[0].valid_until > issued[1].valid_until);
    assert!(issued[1].to_string().starts_with("made  "));
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "no drafts are left: {left:?}");
}

#[test]
fn a_second_run_overwrites_nothing_and_adds_what_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    init(dir, &[host("a")]).unwrap();
    let before = ["ca.crt", "ca.key", "controller.crt", "controller.key", "agents/a.crt", "agents/a.key"]
        .map(|name| (name, fs::read(dir.join(name)).unwrap()));
    let issued = init(dir, &[host("a"), host("b")]).unwrap();
    let origins: Vec<_> = issued.iter().map(|issued| issued.origin).collect();
    assert_eq!(origins, [Origin::Kept, Origin::Kept, Origin::Kept, Origin::Made]);
    assert_eq!(agent(dir, &host("c")).unwrap().origin, Origin::Made);
    for (name, content) in before {
        assert_eq!(fs::read(dir.join(name)).unwrap(), content, "{name}");
    }
}

#[test]
fn an_interrupted_run_is_completed_with_the_key_that_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    init(dir, &[host("a")]).unwrap();
    let key = fs::read(dir.join("agents/a.key")).unwrap();
    fs::remove_file(dir.join("agents/a.crt")).unwrap();
    assert_eq!(agent(dir, &host("a")).unwrap().origin, Origin::Made);
    assert_eq!(fs::read(dir.join("agents/a.key")).unwrap(), key);
}

#[test]
fn a_missing_key_is_named_and_nothing_is_made_in_its_place() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    init(dir, &[host("a")]).unwrap();
    fs::remove_file(dir.join("ca.key")).unwrap();
    let why = init(dir, &[host("b")]).unwrap_err();
    assert!(matches!(why, PkiError::KeyMissing { .. }), "{why}");
    assert!(why.to_string().contains("ca.key is missing"), "{why}");
    assert!(!dir.join("agents/b.crt").exists() && !dir.join("ca.key").exists());
}

#[test]
fn a_certificate_of_another_authority_or_name_is_pointed_out() {
    let scratch = tempfile::tempdir().unwrap();
    let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
    init(&ours, &[host("a"), host("b")]).unwrap();
    init(&theirs, &[host("a")]).unwrap();
    let replace = |from: &Path| {
        fs::copy(from, ours.join("agents/a.crt")).unwrap();
        agent(&ours, &host("a")).unwrap_err().to_string()
    };
    assert!(replace(&theirs.join("agents/a.crt")).contains("another authority has signed it"));
    assert!(replace(&ours.join("agents/b.crt")).contains("it carries another name"));
    assert!(replace(&ours.join("agents/b.key")).contains("no certificate in it"));
}

#[test]
fn no_agent_certificate_without_an_authority() {
    let scratch = tempfile::tempdir().unwrap();
    let why = agent(&scratch.path().join("nothing"), &host("a")).unwrap_err();
    assert!(why.to_string().contains("ca.crt"), "{why}");
}

#[test]
fn a_host_name_that_is_no_dns_name_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let why = init(scratch.path(), &[host("a..b")]).unwrap_err();
    assert!(matches!(why, PkiError::HostName(_)), "{why}");
}

#[test]
fn a_certificate_that_ends_soon_is_pointed_out() {
    let today = today();
    assert_eq!(ends_soon(today.saturating_add(31.days()), "x"), None);
    assert!(ends_soon(today.saturating_add(29.days()), "x").is_some());
    assert!(ends_soon(today.saturating_sub(1.day()), "x").is_some());
}
