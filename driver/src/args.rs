//! The command line. Every subcommand, option and exit code is documented here and nowhere else.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

use crate::cli::output::{Format, TimelineFormat};
use crate::cli::pool::PoolCommand;
use crate::cli::schedules::SchedulesArgs;
use crate::domain::HostName;
use crate::kube::agent::NodeAgentArgs;
use crate::kube::controller::ControllerArgs;
use crate::observe::log::LogFormat;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the line on standard error says what, why and how to fix it
  2  the request is wrong (command line, configuration or rule): it will fail until it is changed
  3  not now: try the same again (something does not answer, is busy, is full, or the attempt was given up)
  4  no such object";

/// Thin volumes with instant snapshots on local disks, and one consistent cut over many hosts.
#[derive(Debug, Parser)]
#[command(name = "stillpoint", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Args {
    /// How log lines are written (to standard error).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "STILLPOINT_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or target=level,…
    /// [default: info for services, warn for everything else]
    #[arg(long, global = true, env = "STILLPOINT_LOG", hide_env_values = true)]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one host: its pools, its volumes, its part of every round.
    Agent(ConfigArgs),
    /// Serve one node of a Kubernetes cluster: an agent that enrols and registers with the kubelet.
    NodeAgent(NodeAgentArgs),
    /// Serve a Kubernetes cluster: CSI for the sidecars, and enrolment of the agents.
    Controller(ControllerArgs),
    /// Serve a fixed list of agents: CSI controller, rules engine and the socket of the commands below.
    Standalone(ConfigArgs),
    /// Make, show and remove the pools of this machine.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Make certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Take a cut of the volumes of these pods, with a rule around it.
    Snapshot(SnapshotArgs),
    /// List cuts.
    Snapshots(ListArgs),
    /// List volumes of all hosts.
    Volumes(ListArgs),
    /// Make new volumes from a cut.
    Restore(RestoreArgs),
    /// Move a volume to another host; it keeps its id, and its snapshots stay where they are.
    Move(MoveArgs),
    /// Cancel the copy of a volume from host to host, and remove what has arrived.
    CancelCopy(CancelCopyArgs),
    /// Delete a cut with all its snapshots.
    Delete(DeleteArgs),
    /// Stop the run of a cut that is being taken; what it did to applications is undone.
    Cancel(CancelArgs),
    /// Show schedules, when they run next, and whether volumes are protected as they say (exit code 1 where not).
    Schedules(SchedulesArgs),
    /// List runs that are over but still owe something to their application.
    Overdue(ListArgs),
    /// Show what happened when during a cut.
    Timeline(TimelineArgs),
    /// Read rules.
    #[command(subcommand)]
    Rule(RuleCommand),
}

/// A service and its configuration.
#[derive(Debug, Group)]
pub struct ConfigArgs {
    /// Its configuration, YAML.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `stillpoint pki …`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make an authority, the controller's certificate and those of agents; what exists is kept.
    Init {
        /// Directory of the authority.
        dir: PathBuf,
        /// A host that gets a certificate; may be given several times.
        #[arg(long = "agent", value_name = "HOST")]
        agents: Vec<String>,
    },
    /// Make the certificate of one more host.
    Agent {
        /// Directory of the authority.
        dir: PathBuf,
        /// The host.
        host: String,
    },
}

/// Where the standalone controller listens.
#[derive(Debug, Clone, Group)]
pub struct SocketArgs {
    /// Socket of the standalone controller.
    #[arg(
        long,
        value_name = "PATH",
        env = "STILLPOINT_SOCKET",
        default_value = "/run/stillpoint/operator.sock"
    )]
    pub socket: PathBuf,
}

/// `stillpoint snapshot …`
#[derive(Debug, Group)]
pub struct SnapshotArgs {
    /// Name of the cut; the same name is the same cut. Made from the time when absent.
    #[arg(long)]
    pub name: Option<String>,
    /// Pods whose volumes are cut, as kubectl writes it: app=db,tier!=cache. Given several times, all are taken.
    #[arg(long = "selector", short = 'l', value_name = "SELECTOR")]
    pub selectors: Vec<String>,
    /// A further volume, by name or id; may be given several times.
    #[arg(long = "volume", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// The rule that is run around the cut.
    #[arg(long, value_name = "FILE")]
    pub rule: Option<PathBuf>,
    /// Only pods of this namespace; may be given several times.
    #[arg(long = "namespace", short = 'n', value_name = "NAMESPACE")]
    pub namespaces: Vec<String>,
    /// A value of a parameter of the rule; may be given several times.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = param)]
    pub params: Vec<(String, String)>,
    /// Show what would be done; nothing is executed.
    #[arg(long)]
    pub plan: bool,
    /// One volume after another instead of together, as a comparison: the result is NOT consistent over volumes. Only
    /// in builds with test switches.
    #[cfg(feature = "test-switches")]
    #[arg(long, hide = true, conflicts_with = "plan")]
    pub without_barrier: bool,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Commands that list.
#[derive(Debug, Group)]
pub struct ListArgs {
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `stillpoint restore …`
#[derive(Debug, Group)]
pub struct RestoreArgs {
    /// The cut, by id or name.
    #[arg(value_name = "CUT")]
    pub id: String,
    /// New volumes are called <PREFIX><volume name>.
    #[arg(long)]
    pub prefix: String,
    /// Only this volume of the cut; may be given several times.
    #[arg(long = "only", value_name = "VOLUME")]
    pub only: Vec<String>,
    /// Make all volumes on this host, instead of each on its own: their data is copied from host to host.
    #[arg(long = "to", value_name = "HOST")]
    pub to: Option<HostName>,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `stillpoint move …`
#[derive(Debug, Group)]
pub struct MoveArgs {
    /// The volume, by name or id; it must not be in use.
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// The host that it goes to.
    #[arg(long = "to", value_name = "HOST")]
    pub to: HostName,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `stillpoint cancel-copy …`
#[derive(Debug, Group)]
pub struct CancelCopyArgs {
    /// The volume that is copied or moved, by name or id.
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `stillpoint delete …`
#[derive(Debug, Group)]
pub struct DeleteArgs {
    /// The cut, by id or name.
    #[arg(value_name = "CUT")]
    pub id: String,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `stillpoint timeline …`
#[derive(Debug, Group)]
pub struct TimelineArgs {
    /// The cut, by id or name.
    #[arg(value_name = "CUT")]
    pub id: String,
    /// Output; html is one self-contained file with a picture.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: TimelineFormat,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// When a rule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RuleRole {
    /// Before the snapshot.
    Pre,
    /// After it.
    Post,
}

/// `stillpoint rule …`
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// Print a rule in the canonical form: any accepted form (canonical, short, Stork's, with its background commands),
    /// or the hook annotations of Velero on a pod or on what makes pods.
    Convert {
        /// The rule.
        file: PathBuf,
        /// When a rule runs whose form does not say it (the short form, Stork's). Without it its name decides, else it
        /// runs before the snapshot.
        #[arg(long, value_enum)]
        role: Option<RuleRole>,
        /// Output: text is YAML.
        #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
        output: Format,
    },
    /// The same as `snapshot --plan`: pods, containers, volumes, hosts, order, expected pause; nothing is executed.
    Plan(SnapshotArgs),
    /// Look for what is wrong or unsafe in a rule; executes nothing and asks nobody.
    Lint {
        /// The rule.
        file: PathBuf,
        /// Output.
        #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
        output: Format,
    },
    /// Run the steps of a rule WITHOUT a cut, to try them, and print what happened.
    Test(SnapshotArgs),
}

fn param(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `stillpoint cancel …`
#[derive(Debug, Group)]
pub struct CancelArgs {
    /// Name of the cut that is being taken.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

impl Command {
    /// Whether it runs until it is told to stop.
    pub const fn is_service(&self) -> bool {
        matches!(self, Self::Agent(_) | Self::NodeAgent(_) | Self::Controller(_) | Self::Standalone(_))
    }

    /// Services log what they do; commands only what is wrong.
    pub const fn log_level(&self) -> &'static str {
        match self {
            Self::Agent(_) | Self::NodeAgent(_) | Self::Controller(_) | Self::Standalone(_) => "info",
            Self::Pool(_)
            | Self::Pki(_)
            | Self::Snapshot(_)
            | Self::Snapshots(_)
            | Self::Volumes(_)
            | Self::Restore(_)
            | Self::Move(_)
            | Self::CancelCopy(_)
            | Self::Delete(_)
            | Self::Cancel(_)
            | Self::Overdue(_)
            | Self::Schedules(_)
            | Self::Timeline(_)
            | Self::Rule(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests;
