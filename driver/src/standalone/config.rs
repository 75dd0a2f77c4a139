//! The configuration of `stillpoint standalone`; docs/standalone.md is its reference.
//!
//! It is read strictly: a field that is not known, a key that is there twice, a value of the wrong kind is an error,
//! and all errors of a file are told at once, each with the field's path.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;
use stillpoint_rules::executor::{self, Job};
use stillpoint_rules::standalone::{PodDefinition, pods_from_value};
use stillpoint_rules::text::{Problem, TextError};

use crate::controller::fleet::AgentAddress;
use crate::domain::HostName;
use crate::domain::round::{AGENTS_MAX, HARD_MS, Limits, SOFT_MS};
use crate::identity::tls::TlsFiles;
use crate::text_file::{self, TextFileError};

use reader::{Problems, Section};

/// Hundreds of pods fit; what is larger is not a configuration.
const FILE_LIMIT: u64 = 1 << 20;
/// Path of a unix socket: `sun_path` less its end and the temporary name that it is published by.
const SOCKET_PATH_LIMIT: usize = 102;

/// What a standalone controller is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where CSI is served.
    pub csi_socket: PathBuf,
    /// Where the operator's commands are served.
    pub operator_socket: PathBuf,
    /// Where runs and debts are kept.
    pub state_dir: PathBuf,
    /// The controller's certificates.
    pub tls: TlsFiles,
    /// The agents.
    pub agents: Vec<AgentAddress>,
    /// The host of volumes whose request names no place; `None`: where most room is.
    pub without_topology: Option<HostName>,
    /// How long a round may hold.
    pub limits: Limits,
    /// The inventory.
    pub pods: PodSource,
    /// Where secrets are that rules name: `<directory>/<name>/<key>`.
    pub secrets: Option<PathBuf>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What is cut by itself, and when.
    pub schedules: Vec<Job>,
}

/// Where the inventory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSource {
    /// In the configuration.
    List(Vec<PodDefinition>),
    /// In a file of its own, which is read again at every use.
    File(PathBuf),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read the configuration {0}")]
    File(#[from] TextFileError),
    /// What is in it: everything that is wrong, one per line.
    #[error("cannot use the configuration {}: {problems}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problems: ProblemList,
    },
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemList(pub Vec<String>);

impl fmt::Display for ProblemList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its directory.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = text_file::read(path, FILE_LIMIT)?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, base).map_err(|problems| ConfigError::Content {
            path: path.to_owned(),
            problems: ProblemList(problems),
        })
    }

    /// Reads a text; relative paths are relative to `base`. The error is everything that is wrong.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<String>> {
        let root = reader::parse(text).map_err(|problem| vec![problem])?;
        let mut problems = Problems::default();
        let config = Self::from_root(&root, text, base, &mut problems);
        match (config, problems.into_list()) {
            (Some(config), list) if list.is_empty() => Ok(config),
            (_, list) => Err(list),
        }
    }

    /// `None` only where a problem was noted.
    fn from_root(root: &Value, text: &str, base: &Path, problems: &mut Problems) -> Option<Self> {
        let fields = [
            "csiSocket",
            "operatorSocket",
            "stateDir",
            "tls",
            "agents",
            "placement",
            "limits",
            "metricsListen",
            "inventory",
            "pods",
            "secrets",
            "schedules",
        ];
        let root = Section::of("", root, &fields, problems)?;
        let csi_socket = socket(&root, "csiSocket", "/run/stillpoint/csi.sock", base, problems);
        let operator_socket =
            socket(&root, "operatorSocket", "/run/stillpoint/operator.sock", base, problems);
        if csi_socket.is_some() && csi_socket == operator_socket {
            problems
                .note("operatorSocket", "is the same file as csiSocket; give each service its own socket");
        }
        let state_dir =
            root.text("stateDir", problems).map(|path| base.join(path.unwrap_or("/var/lib/stillpoint")));
        let secrets = root.text("secrets", problems).map(|path| path.map(|path| base.join(path)));
        let tls = tls(&root, base, problems);
        let agents = agents(&root, problems);
        let without_topology = placement(&root, agents.as_deref(), problems);
        let limits = limits(&root, problems);
        let metrics_listen = metrics_listen(&root, problems);
        let hosts = agents
            .as_ref()
            .map(|agents| agents.iter().map(|agent| agent.host.to_string()).collect::<Vec<_>>());
        let pods = pods(&root, base, hosts.as_deref(), problems);
        let schedules = schedules(&root, text, base, problems);
        Some(Self {
            csi_socket: csi_socket?,
            operator_socket: operator_socket?,
            state_dir: state_dir?,
            tls: tls?,
            agents: agents?,
            without_topology: without_topology?,
            limits: limits?,
            pods: pods?,
            secrets: secrets?,
            metrics_listen: metrics_listen?,
            schedules: schedules?,
        })
    }
}

fn socket(
    root: &Section<'_>,
    field: &str,
    default: &str,
    base: &Path,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let path = base.join(root.text(field, problems)?.unwrap_or(default));
    if path.as_os_str().len() > SOCKET_PATH_LIMIT {
        let why = format!(
            "is longer than the {SOCKET_PATH_LIMIT} bytes that a unix socket's path can have; choose a shorter one"
        );
        return problems.none(field, &why);
    }
    Some(path)
}

fn tls(root: &Section<'_>, base: &Path, problems: &mut Problems) -> Option<TlsFiles> {
    let Some(value) = root.get("tls") else {
        return problems.none("tls", "is missing; agents are reached by mTLS only: give ca, cert and key as `stillpoint pki init` made them");
    };
    let section = Section::of("tls", value, &["ca", "cert", "key"], problems)?;
    let mut file = |field| section.required_text(field, problems).map(|path| base.join(path));
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    Some(TlsFiles { ca: ca?, cert: cert?, key: key? })
}

fn agents(root: &Section<'_>, problems: &mut Problems) -> Option<Vec<AgentAddress>> {
    let list = match root.get("agents") {
        Some(Value::Sequence(list)) if !list.is_empty() => list,
        None | Some(Value::Null | Value::Sequence(_)) => {
            return problems
                .none("agents", "names no agent; give at least one `- {host: …, address: host:port}`");
        }
        Some(_) => {
            return problems
                .none("agents", "is not a list; write one `- {host: …, address: host:port}` per agent");
        }
    };
    if list.len() > AGENTS_MAX {
        return problems.none("agents", &format!("has {} entries; {AGENTS_MAX} is the most", list.len()));
    }
    let read: Vec<_> = list.iter().enumerate().map(|(index, entry)| agent(index, entry, problems)).collect();
    let agents = read.into_iter().collect::<Option<Vec<_>>>()?;
    let mut seen = BTreeSet::new();
    for (index, agent) in agents.iter().enumerate() {
        if !seen.insert(&agent.host) {
            problems.note(
                &format!("agents[{index}].host"),
                &format!("{} is listed twice; each host has one agent", agent.host),
            );
        }
    }
    Some(agents)
}

fn agent(index: usize, entry: &Value, problems: &mut Problems) -> Option<AgentAddress> {
    let path = format!("agents[{index}]");
    let section = Section::of(&path, entry, &["host", "address"], problems)?;
    let host = section
        .required_text("host", problems)
        .and_then(|text| host_name(&format!("{path}.host"), text, problems));
    let address = section.required_text("address", problems).and_then(|text| {
        let port = text
            .rsplit_once(':')
            .filter(|(name, _)| !name.is_empty())
            .and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(port) if port > 0 => Some(text.to_owned()),
            Some(_) | None => problems.none(
                &format!("{path}.address"),
                &format!("{text:?} is not an address; write host:port, such as 10.0.0.7:9700"),
            ),
        }
    });
    Some(AgentAddress { host: host?, address: address? })
}

fn host_name(path: &str, text: &str, problems: &mut Problems) -> Option<HostName> {
    match text.parse() {
        Ok(host) => Some(host),
        Err(error) => problems.none(path, &format!("{error}")),
    }
}

/// `placement.withoutTopology`: the host of an agent.
#[expect(clippy::option_option, reason = "wrong and absent are two things")]
fn placement(
    root: &Section<'_>,
    agents: Option<&[AgentAddress]>,
    problems: &mut Problems,
) -> Option<Option<HostName>> {
    let Some(value) = root.get("placement") else { return Some(None) };
    let section = Section::of("placement", value, &["withoutTopology"], problems)?;
    let path = "placement.withoutTopology";
    let Some(text) = section.text("withoutTopology", problems)? else { return Some(None) };
    let host = host_name(path, text, problems)?;
    if agents.is_none_or(|agents| agents.iter().any(|agent| agent.host == host)) {
        return Some(Some(host));
    }
    problems
        .none(path, &format!("{host} is not one of the agents; write the host of one, or remove the line"))
}

/// `metricsListen`: an address of this machine.
#[expect(clippy::option_option, reason = "wrong and absent are two things")]
fn metrics_listen(root: &Section<'_>, problems: &mut Problems) -> Option<Option<SocketAddr>> {
    let Some(text) = root.text("metricsListen", problems)? else { return Some(None) };
    match text.parse() {
        Ok(address) => Some(Some(address)),
        Err(_) => problems.none(
            "metricsListen",
            &format!("{text:?} is not an address; write ip:port, such as 127.0.0.1:9705"),
        ),
    }
}

/// `inventory`, a file, or `pods`, the list itself.
fn pods(
    root: &Section<'_>,
    base: &Path,
    hosts: Option<&[String]>,
    problems: &mut Problems,
) -> Option<PodSource> {
    let file = root.text("inventory", problems)?;
    match (file, root.get("pods")) {
        (Some(_), Some(_)) => problems.none("pods", "is given beside inventory; keep one of the two"),
        (Some(file), None) => Some(PodSource::File(base.join(file))),
        (None, None | Some(Value::Null)) => Some(PodSource::List(Vec::new())),
        (None, Some(list)) => {
            let read = serde_json::to_value(list).map_err(|error| vec![format!("pods: {error}")]);
            let read = read.and_then(|list| {
                let told = |error: TextError| error.problems.iter().map(problem_in_list).collect::<Vec<_>>();
                pods_from_value(&list, hosts).map_err(told)
            });
            match read {
                Ok(list) => Some(PodSource::List(list)),
                Err(told) => {
                    for problem in &told {
                        problems.note("", problem);
                    }
                    None
                }
            }
        }
    }
}

/// Without line and column: they are those of the list, not of the file.
fn problem_in_list(problem: &Problem) -> String {
    format!("{}: {}; {}; {}", problem.field, problem.what, problem.why, problem.fix)
}

/// `schedules`: read by the rules engine, from the whole text, so that places are those of the file.
fn schedules(root: &Section<'_>, text: &str, base: &Path, problems: &mut Problems) -> Option<Vec<Job>> {
    if root.get("schedules").is_none() {
        return Some(Vec::new());
    }
    match executor::in_config(text) {
        Ok(mut jobs) => {
            for job in &mut jobs {
                job.cut.rule = job.cut.rule.take().map(|path| base.join(path));
            }
            Some(jobs)
        }
        Err(error) => {
            for problem in &error.problems {
                problems.note("", &problem.to_string());
            }
            None
        }
    }
}

/// The hard limit is never above [`HARD_MS`]'s last, which is the longest hold that rounds allow.
fn limits(root: &Section<'_>, problems: &mut Problems) -> Option<Limits> {
    let Some(value) = root.get("limits") else { return Some(Limits::default()) };
    let section = Section::of("limits", value, &["softMs", "hardMs"], problems)?;
    let soft = section.number("softMs", SOFT_MS, problems);
    let hard = section.number("hardMs", HARD_MS, problems);
    let (soft, hard) = (soft?, hard?);
    if soft >= hard {
        let why =
            format!("{soft} is not below hardMs ({hard}); the controller must give up before the guards do");
        return problems.none("limits.softMs", &why);
    }
    Some(Limits { soft: Duration::from_millis(soft), hard: Duration::from_millis(hard), ..Limits::default() })
}
