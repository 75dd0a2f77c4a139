use super::*;
use crate::domain::Code;

fn claim(name: &str, rule: Option<&str>) -> Claim {
    Claim { name: format!("shop/{name}"), rule: rule.map(str::to_owned) }
}

/// The rule that is chosen, or the words of the error.
fn chosen(snapshot: Option<&str>, claims: &[(&str, Option<&str>)], class: Option<&str>) -> String {
    let claims: Vec<Claim> = claims.iter().map(|(name, rule)| claim(name, *rule)).collect();
    match choose(("VolumeSnapshot shop/s", snapshot), &claims, class) {
        Ok(Some(choice)) => format!("{} by {}", choice.rule, choice.by),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_snapshot_comes_before_its_claims_and_those_before_the_class() {
    let claims = [("a", Some("of-claim")), ("b", Some("of-claim"))];
    let bare = [("a", None), ("b", None)];
    let table = [
        (Some("of-snapshot"), &claims, Some("of-class"), "of-snapshot by VolumeSnapshot shop/s"),
        (None, &claims, Some("of-class"), "of-claim by claim shop/a, shop/b"),
        (None, &bare, Some("of-class"), "of-class by the snapshot class"),
        (Some("of-snapshot"), &bare, None, "of-snapshot by VolumeSnapshot shop/s"),
        (None, &bare, None, "none"),
    ];
    for (snapshot, claims, class, expected) in table {
        assert_eq!(chosen(snapshot, claims, class), expected);
    }
}

#[test]
fn claims_without_the_annotation_have_no_say() {
    assert_eq!(chosen(None, &[("a", None), ("b", Some("r"))], None), "r by claim shop/b");
}

#[test]
fn claims_that_name_different_rules_are_an_error_unless_the_snapshot_decides() {
    let claims = [("a", Some("one")), ("b", Some("two")), ("c", None)];
    let error = chosen(None, &claims, Some("class"));
    assert!(error.contains("\"one\" by shop/a, \"two\" by shop/b"), "{error}");
    assert_eq!(chosen(Some("mine"), &claims, None), "mine by VolumeSnapshot shop/s");
}

#[test]
fn what_is_no_name_of_a_rule_is_refused_wherever_it_is_written() {
    for wrong in ["", "other/rule", "Upper", "a b", "../x"] {
        assert!(chosen(Some(wrong), &[], None).contains("not the name of a Rule"), "{wrong:?}");
        assert!(chosen(None, &[("a", Some(wrong))], None).contains("claim shop/a"), "{wrong:?}");
    }
}

#[test]
fn only_what_may_pass_is_asked_again() {
    let unavailable = KubeError::Unavailable { what: "x".into(), why: "y".into() };
    assert_eq!(Fault::from(LookupError::from(unavailable)).code, Code::Unavailable);
    assert_eq!(Fault::from(LookupError::Anonymous("r".into())).code, Code::Precondition);
    assert_eq!(Fault::from(LookupError::Different("r".into())).code, Code::Precondition);
}
