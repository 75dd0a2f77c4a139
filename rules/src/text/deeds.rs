//! Reads actions and sessions of the canonical form.

use crate::api::{
    Check, Command, EnvEntry, Hold, HttpCall, Invocation, Method, OnLost, Probe, Retry, SecretRef, Take, Tls,
    Wait, check, deed, invocation, is_dns_subdomain, is_secret_key, is_variable, limits,
};

use super::node::{Fields, Node};
use super::words::clip;

const METHODS: &[(&str, Method)] = &[
    ("GET", Method::Get),
    ("HEAD", Method::Head),
    ("POST", Method::Post),
    ("PUT", Method::Put),
    ("PATCH", Method::Patch),
    ("DELETE", Method::Delete),
];

pub(super) fn command(node: &Node<'_>) -> Option<Command> {
    let fields = node.fields(
        "an action",
        &["command", "shell", "http", "wait", "env", "timeout", "outputLimit", "retry", "idempotent"],
    )?;
    let (argv, shell) = invocation_fields(&fields);
    let http = fields.optional("http", http);
    let wait = fields.optional("wait", wait);
    let env = fields.optional("env", variables);
    let timeout = fields.optional("timeout", |n| n.length(limits::COMMAND_TIMEOUT));
    let output_limit = fields.optional("outputLimit", |n| n.number(0, limits::OUTPUT_BYTES));
    let retry = fields.optional("retry", retry);
    let idempotent = fields.optional("idempotent", Node::truth);
    let run = one(&fields, deed(argv?, shell?, http?, wait?))?;
    let command = Command {
        run,
        env: env?.unwrap_or_default(),
        timeout: timeout?,
        output_limit: output_limit?,
        retry: retry?,
        idempotent: idempotent?,
    };
    if !command.env.is_empty() && command.invocation().is_none() {
        node.fail("`env` beside `http`", "a request has no environment", "use `headers` inside `http`");
        return None;
    }
    Some(command)
}

#[expect(clippy::option_option, reason = "absent and wrong are two things; wrong is already in the sink")]
fn invocation_fields(fields: &Fields<'_>) -> (Option<Option<Vec<String>>>, Option<Option<String>>) {
    (fields.optional("command", |n| n.texts(limits::ARGV_ITEMS)), fields.optional("shell", Node::text))
}

fn one<T>(fields: &Fields<'_>, read: Result<T, crate::api::CommandError>) -> Option<T> {
    match read {
        Ok(run) => Some(run),
        Err(error) => {
            let words = error.to_string();
            let (what, fix) = words.split_once("; ").unwrap_or((&words, "correct it"));
            fields.node().fail(what, "exactly one thing is done", fix);
            None
        }
    }
}

fn retry(node: &Node<'_>) -> Option<Retry> {
    let fields = node.fields("`retry`", &["times", "pause"])?;
    let times = fields.required("times").and_then(|n| n.number(1, limits::RETRIES));
    let pause = fields.optional("pause", |n| n.length(limits::COMMAND_TIMEOUT));
    Some(Retry { times: times?, pause: pause? })
}

fn wait(node: &Node<'_>) -> Option<Wait> {
    let fields = node.fields("`wait`", &["command", "shell", "http", "every"])?;
    let (argv, shell) = invocation_fields(&fields);
    let http = fields.optional("http", http);
    let every = fields.optional("every", |n| n.length(limits::COMMAND_TIMEOUT));
    let until: Check = one(&fields, check(argv?, shell?, http?))?;
    Some(Wait { until, every: every? })
}

fn http(node: &Node<'_>) -> Option<HttpCall> {
    let fields = node.fields("`http`", &["method", "port", "path", "status", "headers", "body", "tls"])?;
    let method = fields.optional("method", |n| n.choice(METHODS));
    let port = fields.required("port").and_then(|n| n.number(1, 65_535));
    let path = fields.optional("path", path);
    let status = fields.optional("status", |n| n.number(100, 599));
    let headers = fields.optional("headers", headers);
    let body = fields.optional("body", body);
    let tls = fields.optional("tls", tls);
    Some(HttpCall {
        method: method?.unwrap_or_default(),
        port: u16::try_from(port?).ok()?,
        path: path?.unwrap_or_else(|| "/".to_owned()),
        status: status?.and_then(|status| u16::try_from(status).ok()),
        headers: headers?.unwrap_or_default(),
        body: body?,
        tls: tls?,
    })
}

fn path(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    let plain = |c: char| c.is_ascii_graphic();
    if text.starts_with('/') && text.len() <= 4096 && text.chars().all(plain) && !text.contains('#') {
        return Some(text);
    }
    node.fail(
        format!("`{}` is no path", clip(&text)),
        "the pod's own address is in front of it",
        "begin with `/`, and write %20 for a space",
    );
    None
}

fn body(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if text.len() <= limits::BODY_BYTES {
        return Some(text);
    }
    node.fail(
        format!("a body of {} bytes", text.len()),
        format!("at most {} are sent", limits::BODY_BYTES),
        "use a command",
    );
    None
}

fn tls(node: &Node<'_>) -> Option<Tls> {
    let fields = node.fields("`tls`", &["ca", "serverName"])?;
    let ca = fields.required("ca").and_then(|n| secret(&n));
    let server_name = fields.optional("serverName", |n| {
        n.name(is_dns_subdomain, "a name as it stands in a certificate has a-z, 0-9, - and .")
    });
    Some(Tls { ca: ca?, server_name: server_name? })
}

fn secret(node: &Node<'_>) -> Option<SecretRef> {
    let fields = node.fields("a secret", &["name", "key"])?;
    let name = fields.required("name").and_then(|n| {
        n.name(
            is_dns_subdomain,
            "a Secret's name has a-z, 0-9, - and . and starts and ends with a letter or digit",
        )
    });
    let key = fields
        .required("key")
        .and_then(|n| n.name(is_secret_key, "a Secret's key has letters, digits, -, _ and ."));
    Some(SecretRef { name: name?, key: key? })
}

fn variables(node: &Node<'_>) -> Option<Vec<EnvEntry>> {
    entries(node, is_variable, "a variable has letters, digits and _, and does not begin with a digit")
}

fn headers(node: &Node<'_>) -> Option<Vec<EnvEntry>> {
    let token = |text: &str| {
        (1..=256).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
    };
    entries(node, token, "a header's name has letters, digits and -")
}

fn entries(node: &Node<'_>, check: fn(&str) -> bool, rule: &str) -> Option<Vec<EnvEntry>> {
    let nodes = node.list()?;
    if nodes.len() > limits::ENTRIES {
        node.fail(
            format!("{} entries", nodes.len()),
            format!("at most {} are allowed", limits::ENTRIES),
            "shorten the list",
        );
        return None;
    }
    let all: Vec<Option<EnvEntry>> = nodes.iter().map(|n| entry(n, check, rule)).collect();
    let all: Vec<EnvEntry> = all.into_iter().collect::<Option<_>>()?;
    for (index, entry) in all.iter().enumerate() {
        if all[..index].iter().any(|earlier| earlier.name == entry.name) {
            nodes[index].fail(
                format!("a second `{}`", clip(&entry.name)),
                "only one of them would count",
                "keep one of them",
            );
            return None;
        }
    }
    Some(all)
}

fn entry(node: &Node<'_>, check: fn(&str) -> bool, rule: &str) -> Option<EnvEntry> {
    let fields = node.fields("an entry", &["name", "value", "secret"])?;
    let name = fields.required("name").and_then(|n| n.name(check, rule));
    let value = fields.optional("value", one_line);
    let secret = fields.optional("secret", secret);
    let entry = EnvEntry { name: name?, value: value?, secret: secret? };
    if entry.value.is_some() == entry.secret.is_some() {
        node.fail(
            "neither or both of `value` and `secret`",
            "a value comes from one place",
            "give one of `value: text` and `secret: {name, key}`",
        );
        return None;
    }
    Some(entry)
}

fn one_line(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if text.contains(['\n', '\r']) {
        node.fail("a line break", "a value is passed as one line", "put it on one line");
        return None;
    }
    Some(text)
}

pub(super) fn hold(node: &Node<'_>) -> Option<Hold> {
    let fields = node.fields(
        "a hold",
        &[
            "command",
            "shell",
            "env",
            "send",
            "ready",
            "probe",
            "finish",
            "limit",
            "heartbeat",
            "onLost",
            "take",
        ],
    )?;
    let (argv, shell) = invocation_fields(&fields);
    let env = fields.optional("env", variables);
    let send = fields.optional("send", lines);
    let ready = fields.required("ready").and_then(|n| expected(&n));
    let probe = fields.optional("probe", probe);
    let finish = fields.optional("finish", lines);
    let limit = fields.optional("limit", |n| n.length(limits::HOLD_LIMIT));
    let heartbeat = fields.optional("heartbeat", |n| n.length(limits::HOLD_LIMIT));
    let on_lost =
        fields.optional("onLost", |n| n.choice(&[("abort", OnLost::Abort), ("degrade", OnLost::Degrade)]));
    let take = fields.optional("take", |n| n.choice(&[("last", Take::Last), ("inTurn", Take::InTurn)]));
    let run: Invocation = one(&fields, invocation(argv?, shell?))?;
    Some(Hold {
        run,
        env: env?.unwrap_or_default(),
        send: send?.unwrap_or_default(),
        ready: ready?,
        probe: probe?,
        finish: finish?.unwrap_or_default(),
        limit: limit?,
        heartbeat: heartbeat?,
        on_lost: on_lost?.unwrap_or_default(),
        take: take?.unwrap_or_default(),
    })
}

fn probe(node: &Node<'_>) -> Option<Probe> {
    let fields = node.fields("a probe", &["send", "expect"])?;
    let send = fields.required("send").and_then(|n| line(&n));
    let expect = fields.required("expect").and_then(|n| expected(&n));
    Some(Probe { send: send?, expect: expect? })
}

fn lines(node: &Node<'_>) -> Option<Vec<String>> {
    let texts = node.texts(limits::SESSION_LINES)?;
    match texts.iter().find(|text| text.contains('\n')) {
        None => Some(texts),
        Some(text) => {
            node.fail(format!("`{}` has a line break", clip(text)), "each item is one line", "split it");
            None
        }
    }
}

fn line(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    if text.contains('\n') {
        node.fail("a line break", "one line is sent", "put it on one line");
        return None;
    }
    Some(text)
}

fn expected(node: &Node<'_>) -> Option<String> {
    let text = line(node)?;
    if text.trim().is_empty() {
        node.fail("empty text", "every output would count as the answer", "write what the session prints");
        return None;
    }
    Some(text)
}
