//! Rules that are made up, and texts that are no rules.

use proptest::prelude::*;

use super::*;
use crate::api::{
    Check, Command, Deed, EnvEntry, Expression, HttpCall, LabelSelector, Method, OnLost, Operator, PodSet,
    Probe, Retry, SecretRef, Take, Tls, Wait,
};

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,20}",
        "\\PC{1,12}",
        Just("true".to_owned()),
        Just("0x1F".to_owned()),
        Just("- a: b".to_owned())
    ]
    .prop_filter("a program is not blank", |text| !text.trim().is_empty())
}

fn length() -> impl Strategy<Value = Option<crate::api::Length>> {
    prop::option::of((10_u64..60_000).prop_map(|ms| format!("{ms}ms").parse().unwrap()))
}

fn command() -> impl Strategy<Value = Command> {
    let run = prop_oneof![
        prop::collection::vec(words(), 1..4).prop_map(Invocation::Argv),
        words().prop_map(Invocation::Shell)
    ];
    let call = (1_u16.., "/[a-z]{0,5}", prop::option::of(100_u16..600), prop::option::of(words()), entries())
        .prop_map(|(port, path, status, body, headers)| HttpCall {
            method: Method::Post,
            port,
            path,
            status,
            headers,
            body,
            tls: status.map(|_| Tls {
                ca: SecretRef { name: "ca".into(), key: "ca.crt".into() },
                server_name: None,
            }),
        })
        .boxed();
    let check = prop_oneof![run.clone().prop_map(Check::Run), call.clone().prop_map(Check::Http)];
    let deed = prop_oneof![
        run.prop_map(Deed::Run),
        call.prop_map(Deed::Http),
        (check, length()).prop_map(|(until, every)| Deed::Wait(Wait { until, every })),
    ];
    let retry = (1_u32..10, length()).prop_map(|(times, pause)| Retry { times, pause });
    (
        deed,
        entries(),
        length(),
        prop::option::of(0_u32..1000),
        prop::option::of(retry),
        prop::option::of(any::<bool>()),
    )
        .prop_map(|(run, env, timeout, output_limit, retry, idempotent)| {
            let mut command = Command { run, env, timeout, output_limit, retry, idempotent };
            if command.invocation().is_none() {
                command.env.clear();
            }
            command
        })
}

fn entries() -> impl Strategy<Value = Vec<EnvEntry>> {
    let entry = prop_oneof![
        words().prop_map(|value| (Some(value.replace(['\n', '\r'], " ")), None)),
        Just((None, Some(SecretRef { name: "db".into(), key: "password".into() }))),
    ];
    prop::collection::vec(entry, 0..3).prop_map(|entries| {
        let named = |(index, (value, secret))| EnvEntry { name: format!("V{index}"), value, secret };
        entries.into_iter().enumerate().map(named).collect()
    })
}

fn expressions() -> impl Strategy<Value = Vec<Expression>> {
    let one = (
        "[a-z]{1,5}",
        prop::sample::select(vec![Operator::In, Operator::NotIn, Operator::Exists]),
        "[a-z]{1,5}",
    );
    prop::collection::vec(
        one.prop_map(|(key, operator, value)| {
            let values = if operator == Operator::Exists { vec![] } else { vec![value] };
            Expression { key, operator, values }
        }),
        0..2,
    )
}

fn pod_set() -> impl Strategy<Value = PodSet> {
    let selector = (prop::collection::btree_map("[a-z]{1,5}", "[a-z0-9]{0,5}", 1..3), expressions())
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_labels, match_expressions });
    (
        prop::option::of(selector),
        any::<bool>(),
        prop::option::of("[a-z]{1,5}"),
        prop::option::of(1_u32..9),
        command(),
    )
        .prop_map(|(selector, leader, container, min, where_)| PodSet {
            from_volumes: selector.is_none(),
            selector,
            container,
            min,
            parallel: min,
            pick: if leader { Pick::Leader } else { Pick::All },
            where_: leader.then_some(where_),
        })
}

fn hold() -> impl Strategy<Value = Hold> {
    (command(), prop::collection::vec(words(), 0..3), words(), prop::option::of((words(), words())), length())
        .prop_map(|(command, lines, ready, probe, limit)| Hold {
            run: command.invocation().cloned().unwrap_or_else(|| Invocation::Shell("x".into())),
            env: command.env,
            send: lines.clone(),
            ready,
            probe: probe.map(|(send, expect)| Probe { send, expect }),
            finish: lines,
            limit,
            heartbeat: limit,
            on_lost: if limit.is_some() { OnLost::Degrade } else { OnLost::Abort },
            take: if limit.is_some() { Take::InTurn } else { Take::Last },
        })
}

fn rules() -> impl Strategy<Value = Rule> {
    let step = (
        pod_set(),
        command(),
        prop::option::of(hold()),
        prop::option::of(command()),
        prop::sample::select(vec![OnFailure::Abort, OnFailure::Degrade, OnFailure::Ignore]),
    );
    (prop::collection::vec(step, 1..4), prop::option::of("[a-z]{1,9}")).prop_map(|(steps, namespace)| {
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(index, (pods, before, hold, after, on_failure))| Step {
                name: format!("s{index}"),
                pods,
                before: Some(before),
                hold,
                after,
                on_failure,
            })
            .collect();
        Rule {
            metadata: Metadata { name: "r.x-1".to_owned(), namespace },
            spec: RuleSpec { params: vec![], redact: vec!["a+b".into()], steps },
        }
    })
}

proptest! {
    #[test]
    fn a_rule_that_is_written_is_read_back_as_it_was(rule in rules()) {
        let text = to_yaml(&rule).unwrap();
        prop_assert_eq!(parse(&text).map_err(|error| format!("{error}\n{text}")), Ok(rule.clone()));
        // The derived reader, which records and other adapters use, agrees.
        let json = serde_json::to_value(&rule).unwrap();
        prop_assert_eq!(serde_json::from_value::<Rule>(json).unwrap(), rule);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn pieces_of_yaml_never_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "kind: Rule", "name: x", "\n", "  ", "- ", "podSelector:", "{", "}", "[", "]", "&a ", "*a", "!!t ", "---\n",
        "value: x", "spec:", "steps:", "'", "\"", "|\n", ": ", "? ", "apiVersion: stillpoint.dev/v1alpha1", "\u{feff}", "\t", "#",
        "rules:", "actions:", "~",
    ]), 0..30)) {
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn a_good_rule_with_a_byte_changed_never_panics(at in 0_usize..900, byte in any::<u8>()) {
        let mut bytes = CANONICAL.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}
