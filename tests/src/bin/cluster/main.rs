//! `stillpoint-cluster`: a real Kubernetes of three nodes on this machine. Needs root, Go and Debian's packages.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use stillpoint_tests::cluster::{Kubectl, Layout, able, addons, down, images, suite, up};
use stillpoint_tests::harness::{self, Step};

/// The cluster that is meant where none is named, here and in the Makefile.
const DEFAULT: &str = "dev";

/// A real Kubernetes of three nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "stillpoint-cluster", version)]
struct Arguments {
    /// Which cluster, for several beside each other.
    #[arg(long, env = "CLUSTER", default_value = DEFAULT)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print why no cluster can run on this machine, or nothing when one can.
    Able,
    /// Build what is missing and nothing else.
    Build,
    /// Bring the cluster up, with Stillpoint's image from the binaries beside this program.
    Up {
        /// Where stillpoint and stillpoint-guard are [default: beside this program].
        #[arg(long, env = "STILLPOINT_BINARIES")]
        binaries: Option<PathBuf>,
        /// The kustomize directory that installs Stillpoint [default: deploy/kustomize of this source tree].
        #[arg(long)]
        manifests: Option<PathBuf>,
    },
    /// Pack the images of Cassandra and PostgreSQL that deploy/examples/databases names, and import them.
    Databases,
    /// Remove the cluster and everything it made.
    Down,
    /// Run kubectl as the administrator.
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the external-storage suite of Kubernetes, and compare what ran with tests/cluster/storage-suite.
    Suite {
        /// Only specs whose names match this regular expression.
        #[arg(long)]
        focus: Option<String>,
        /// Write specs.txt from what passed.
        #[arg(long, conflicts_with = "focus")]
        write: bool,
    },
    /// Part of `down`, inside a node.
    #[command(hide = true)]
    Release,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let layout = Layout::new(&arguments.name)?;
    match arguments.command {
        Command::Able => {
            let Some(lack) = able::why_not(&layout) else { return Ok(()) };
            ensure!(!lack.fails_this_run(), "no cluster can run here: {}", lack.reason());
            print!("{}", lack.reason());
            return Ok(());
        }
        Command::Build => return up::prepare(&layout),
        Command::Up { .. }
        | Command::Databases
        | Command::Suite { .. }
        | Command::Down
        | Command::Kubectl { .. }
        | Command::Release => {}
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "namespaces, mounts and cgroups need root; run it by make, which uses sudo"
    );
    match arguments.command {
        Command::Able | Command::Build => Ok(()),
        Command::Up { binaries, manifests } => {
            let binaries = binaries.map_or_else(harness::binaries::profile_directory, Ok)?;
            let _lock = layout.lock()?;
            let kubectl = up::up(&layout)?;
            let image = up::load_stillpoint(&layout, &binaries)?;
            let manifests = manifests
                .unwrap_or_else(|| harness::binaries::source_directory().join("../deploy/kustomize"));
            ensure!(manifests.is_dir(), "{} is not there; give it with --manifests", manifests.display());
            let step = Step::begin("installing Stillpoint");
            addons::stillpoint(&kubectl, &manifests, image)?;
            step.done();
            print!("{}", kubectl.run(&["get", "nodes", "-o", "wide"])?);
            println!("{}", next_steps(&layout));
            Ok(())
        }
        Command::Databases => {
            let _lock = layout.lock()?;
            images::databases::load(&layout)
        }
        Command::Suite { focus, write } => {
            let _lock = layout.lock()?;
            let is_good = suite::run(&layout, &suite::Options { focus, write })?;
            ensure!(
                is_good,
                "the suite did not do what its lists say; its log is in {}",
                layout.file("suite").display()
            );
            Ok(())
        }
        Command::Down => {
            let _lock = layout.lock()?;
            let step = Step::begin(format!("removing the cluster {:?}", layout.name()));
            down::down(&layout)?;
            step.done();
            Ok(())
        }
        Command::Kubectl { arguments } => {
            let error = Kubectl::of(&layout)?.command().args(arguments).exec();
            Err(error).context("cannot run kubectl")
        }
        Command::Release => down::release(),
    }
}

/// Three commands to try, as they are to be typed.
fn next_steps(layout: &Layout) -> String {
    let cluster = match layout.name() {
        DEFAULT => String::new(),
        other => format!(" CLUSTER={other}"),
    };
    format!(
        "\nTry:\n  make kubectl{cluster} ARGS='get pods -A'\n  \
         make kubectl{cluster} ARGS='get storageclass,volumesnapshotclass,volumegroupsnapshotclass'\n  \
         make cluster-down{cluster}"
    )
}
