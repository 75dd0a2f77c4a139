//! `stillpoint pki`.

use crate::args::PkiCommand;
use crate::domain::{Fault, HostName};
use crate::identity::pki::{self, Issued, PkiError};

use super::output::print;

/// Runs one of them.
pub fn run(command: PkiCommand) -> Result<(), Fault> {
    let issued = match command {
        PkiCommand::Init { dir, agents } => {
            let hosts = agents.iter().map(|host| host_name(host)).collect::<Result<Vec<_>, _>>()?;
            pki::init(&dir, &hosts).map_err(fault)?
        }
        PkiCommand::Agent { dir, host } => vec![pki::agent(&dir, &host_name(&host)?).map_err(fault)?],
    };
    print(&issued.iter().map(Issued::to_string).collect::<Vec<_>>().join("\n"))
}

fn host_name(text: &str) -> Result<HostName, Fault> {
    text.parse().map_err(|error| Fault::invalid(format!("cannot make a certificate: {error}")))
}

fn fault(error: PkiError) -> Fault {
    match error {
        PkiError::HostName(_) => Fault::invalid(error.to_string()),
        PkiError::File { .. } | PkiError::KeyMissing { .. } | PkiError::Broken { .. } => {
            Fault::precondition(error.to_string())
        }
    }
}
