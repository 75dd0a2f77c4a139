use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_selector_string_means_what_kubectl_means() {
    let pod = labels(&[("app", "db"), ("env", "b"), ("owner", "me"), ("example.com/part", "x")]);
    let yes = [
        "app=db",
        "app==db",
        " app = db , env in ( a , b ) ",
        "app",
        "!legacy",
        "tier!=cache",
        "env notin (c,d)",
        "example.com/part=x",
        "app=db,!legacy,owner",
        "app in (db)",
    ];
    let no =
        ["app=web", "legacy", "!app", "env!=b", "env in (a,c)", "env notin (b)", "app=db,app=web", "app="];
    for text in yes {
        assert!(matches(&parse_selector(text).unwrap(), &pod), "{text}");
    }
    for text in no {
        assert!(!matches(&parse_selector(text).unwrap(), &pod), "{text}");
    }
}

#[test]
fn what_is_no_selector_is_refused_with_its_place() {
    let table = [
        ("", "empty"),
        ("   ", "empty"),
        (",", "character 1"),
        ("app=db,", "character 8"),
        ("app in a", "character 8: expected `(`, found `a`"),
        ("app in (a", "expected `)`, found the end"),
        ("app in ()", "expected a value, found `)`"),
        ("app like db", "expected `=`, `!=`, `in`, `notin` or `,`, found `like`"),
        ("app=db tier=x", "expected `,`"),
        ("-app=db", "`-app` cannot be the name"),
        ("app=-db", "`-db` cannot be the value"),
        ("a/b/c=d", "cannot be the name"),
        ("app=\u{1b}[31m", "cannot be the value"),
    ];
    for (text, expected) in table {
        let error = parse_selector(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(matches!(parse_selector(&"a".repeat(5000)), Err(SelectorError::TooLong(5000))));
}

#[test]
fn an_empty_selector_matches_nothing() {
    assert!(!matches(&LabelSelector::default(), &labels(&[("app", "db")])));
}

proptest! {
    #[test]
    fn no_text_makes_the_selector_parser_panic(text in ".{0,80}") {
        let _ = parse_selector(&text);
    }

    #[test]
    fn words_from_the_grammar_never_panic(words in prop::collection::vec(
        prop::sample::select(vec!["a", "in", "notin", "(", ")", ",", "=", "!=", "!", "==", " ", "ü", "x/y"]), 0..12)) {
        let _ = parse_selector(&words.concat());
    }

    #[test]
    fn a_selector_of_equalities_matches_exactly_the_pods_that_have_them(
        wanted in prop::collection::btree_map("[a-c]", "[x-z]", 1..3),
        has in prop::collection::btree_map("[a-c]", "[x-z]", 0..4),
    ) {
        let text: Vec<String> = wanted.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = wanted.iter().all(|(k, v)| has.get(k) == Some(v));
        prop_assert_eq!(matches(&parse_selector(&text.join(",")).unwrap(), &has), expected);
    }
}
