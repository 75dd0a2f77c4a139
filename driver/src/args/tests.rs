use clap::CommandFactory;

use super::*;

fn parse(words: &[&str]) -> Result<Args, clap::Error> {
    Args::try_parse_from([&["stillpoint"], words].concat())
}

fn snapshot(words: &[&str]) -> SnapshotArgs {
    let Command::Snapshot(args) = parse(words).unwrap().command else { panic!("{words:?} is no snapshot") };
    args
}

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn a_snapshot_takes_several_selectors_and_volumes() {
    let args = snapshot(&[
        "snapshot",
        "--selector",
        "app=a",
        "-l",
        "app=b",
        "--volume",
        "v1",
        "--volume",
        "v2",
        "--rule",
        "r.yaml",
    ]);
    assert_eq!(args.selectors, ["app=a", "app=b"]);
    assert_eq!(args.volumes, ["v1", "v2"]);
    assert_eq!(args.rule, Some("r.yaml".into()));
    assert!(!args.plan);
}

#[test]
fn the_socket_has_a_default_and_can_be_given() {
    let args = snapshot(&["snapshot", "--socket", "/x.sock"]);
    assert_eq!(args.socket.socket, PathBuf::from("/x.sock"));
}

#[test]
fn a_snapshot_without_the_barrier_can_be_asked_for_only_in_builds_with_test_switches() {
    assert_eq!(parse(&["snapshot", "--without-barrier"]).is_ok(), cfg!(feature = "test-switches"));
    assert!(parse(&["snapshot", "--plan", "--without-barrier"]).is_err());
}

#[test]
fn a_restore_needs_a_prefix() {
    let error = parse(&["restore", "nightly"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--prefix"), "{error}");
}

#[test]
fn only_a_timeline_has_a_picture() {
    assert!(parse(&["timeline", "x", "-o", "html"]).is_ok());
    assert!(parse(&["snapshots", "-o", "html"]).is_err());
}

#[test]
fn unknown_words_end_with_exit_code_2() {
    for words in [&["snapshoot"][..], &["snapshots", "--all"], &["timeline"], &[]] {
        assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
    }
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let help = Args::command().render_help().to_string();
    for code in 0..=4 {
        assert!(help.contains(&format!("\n  {code}  ")), "{help}");
    }
}
