//! `stillpoint pki`: a certificate authority in a directory.
//!
//! ```text
//! DIR/ca.crt  ca.key                 the authority; ca.key leaves this directory never
//! DIR/controller.crt  controller.key
//! DIR/agents/<host>.crt  <host>.key  go to the host, together with ca.crt
//! ```
//! Guarantees: keys are 0600 from their first byte on; nothing that exists is ever overwritten; a run that was
//! interrupted is completed by the next one (a key is published before its certificate, so a certificate without
//! key means that somebody took the key away, and a key without certificate gets one).

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use super::{CONTROLLER, agent_name, tls};
use crate::domain::HostName;

/// The authority outlives many certificates.
const CA_YEARS: i32 = 10;
/// Long enough to be renewed by hand, short enough that a lost key ends some day.
const LEAF_YEARS: i32 = 2;
/// A certificate that ends sooner than this is pointed out.
const RENEW_DAYS: i32 = 30;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Why certificates could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A certificate whose key was taken away.
    #[error("{} has no key beside it ({} is missing): put the key back, or remove the certificate to have a new pair made", certificate.display(), key.display())]
    KeyMissing {
        /// The certificate.
        certificate: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// A host whose name cannot stand in a certificate.
    #[error(
        "host name {0} cannot stand in a certificate: every part between the dots must be a DNS label (letters, digits, inner hyphens)"
    )]
    HostName(HostName),
    /// A file that is not what its name says.
    #[error("{} cannot be used: {why}; if it is damaged, restore it from your backup", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// One certificate that a run of `pki` made or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate's file; its key is beside it.
    pub certificate: PathBuf,
    /// Made now, or there before.
    pub origin: Origin,
    /// Last day on which it is valid.
    pub valid_until: Date,
    /// What to do about it, where something must be done.
    pub warning: Option<String>,
}

/// Whether a certificate was made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By this run.
    Made,
    /// By an earlier one; left as it was.
    Kept,
}

impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Made => "made",
            Origin::Kept => "kept",
        };
        write!(f, "{origin}  {}  valid until {}", self.certificate.display(), self.valid_until)?;
        self.warning.as_ref().map_or(Ok(()), |warning| write!(f, "  {warning}"))
    }
}

/// `stillpoint pki init DIR [--agent HOST…]`: authority, controller and these agents; adds what is missing.
pub fn init(directory: &Path, agents: &[HostName]) -> Result<Vec<Issued>, PkiError> {
    let authority = Authority::open_or_make(directory)?;
    let mut issued = vec![authority.issued.clone(), authority.controller()?];
    for host in agents {
        issued.push(authority.agent(host)?);
    }
    Ok(issued)
}

/// `stillpoint pki agent DIR HOST`: the certificate of one more host, from an authority that exists.
pub fn agent(directory: &Path, host: &HostName) -> Result<Issued, PkiError> {
    Authority::open(directory)?.agent(host)
}

struct Authority {
    directory: PathBuf,
    certificate: String,
    key: KeyPair,
    issued: Issued,
}

impl Authority {
    fn open_or_make(directory: &Path) -> Result<Self, PkiError> {
        private_directory(directory)?;
        let path = directory.join("ca.crt");
        if read_if_any(&path)?.is_some() {
            return Self::open(directory);
        }
        let key = key_beside(&path)?;
        let pem = ca_params(&path)?.self_signed(&key).map_err(|why| broken(&path, why))?.pem();
        publish(&path, &pem, PUBLIC)?;
        let made = Self::open(directory)?;
        Ok(Self { issued: Issued { origin: Origin::Made, ..made.issued }, ..made })
    }

    fn open(directory: &Path) -> Result<Self, PkiError> {
        let path = directory.join("ca.crt");
        let certificate = read(&path)?;
        let key_path = key_path(&path);
        let Some(key) = read_if_any(&key_path)? else {
            return Err(PkiError::KeyMissing { certificate: path, key: key_path });
        };
        let key = KeyPair::from_pem(&key).map_err(|why| broken(&key_path, why))?;
        let valid_until = tls::authority_valid_until(&certificate).map_err(|why| broken(&path, why))?;
        let issued = Issued {
            certificate: path,
            origin: Origin::Kept,
            valid_until,
            warning: ends_soon(valid_until, "plan a new authority in a new directory"),
        };
        Ok(Self { directory: directory.into(), certificate, key, issued })
    }

    fn controller(&self) -> Result<Issued, PkiError> {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(&self.directory.join("controller.crt"), CONTROLLER, usages)
    }

    fn agent(&self, host: &HostName) -> Result<Issued, PkiError> {
        let name = agent_name(host);
        tls::server_name(&name).map_err(|_| PkiError::HostName(host.clone()))?;
        let agents = self.directory.join("agents");
        private_directory(&agents)?;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(&agents.join(format!("{host}.crt")), &name, usages)
    }

    /// The certificate at `path`: made when it is missing, then checked against the authority.
    fn leaf(
        &self,
        path: &Path,
        name: &str,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<Issued, PkiError> {
        if read_if_any(path)?.is_some() {
            return self.found(path, name, Origin::Kept);
        }
        let key = key_beside(path)?;
        let mut params = params(path, name, LEAF_YEARS)?;
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let pem = Issuer::from_ca_cert_pem(&self.certificate, &self.key)
            .and_then(|issuer| params.signed_by(&key, &issuer))
            .map_err(|why| broken(path, why))?
            .pem();
        publish(path, &pem, PUBLIC)?;
        self.found(path, name, Origin::Made)
    }

    fn found(&self, path: &Path, name: &str, origin: Origin) -> Result<Issued, PkiError> {
        let certificate = read(path)?;
        let key = key_path(path);
        if read_if_any(&key)?.is_none() {
            return Err(PkiError::KeyMissing { certificate: path.into(), key });
        }
        let valid_until =
            tls::leaf_valid_until(&certificate, name, &self.certificate).map_err(|why| broken(path, why))?;
        let warning = ends_soon(valid_until, "remove it and run this again for a new one");
        Ok(Issued { certificate: path.into(), origin, valid_until, warning })
    }
}

fn ca_params(path: &Path) -> Result<CertificateParams, PkiError> {
    let mut params = params(path, "Stillpoint CA", CA_YEARS)?;
    params.subject_alt_names.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A certificate of `name`, valid for `years` and since yesterday, because clocks differ.
fn params(path: &Path, name: &str, years: i32) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|why| broken(path, why))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let (year, month, day) = year_month_day(today().saturating_sub(1.day()));
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = year_month_day(today().saturating_add(years.years()));
    params.not_after = rcgen::date_time_ymd(year, month, day);
    Ok(params)
}

fn year_month_day(date: Date) -> (i32, u8, u8) {
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

fn ends_soon(valid_until: Date, what_to_do: &str) -> Option<String> {
    let soon = today().saturating_add(RENEW_DAYS.days());
    (valid_until < soon).then(|| format!("IT ENDS SOON OR HAS ENDED: {what_to_do}"))
}

fn key_path(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

/// The key that belongs to the certificate at this path: found, or made and published.
fn key_beside(certificate: &Path) -> Result<KeyPair, PkiError> {
    let path = key_path(certificate);
    if let Some(pem) = read_if_any(&path)? {
        return KeyPair::from_pem(&pem).map_err(|why| broken(&path, why));
    }
    let key = KeyPair::generate().map_err(|why| broken(&path, why))?;
    publish(&path, &key.serialize_pem(), PRIVATE)?;
    Ok(key)
}

fn broken(path: &Path, why: impl fmt::Display) -> PkiError {
    PkiError::Broken { path: path.into(), why: why.to_string() }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> PkiError + 'a {
    move |source| PkiError::File { action, path: path.into(), source }
}

fn private_directory(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn read_if_any(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(failed("read", path)(why)),
    }
}

/// Publishes by hard link, which unlike a rename never replaces what somebody else published meanwhile.
fn publish(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&draft, path)?;
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    let outcome = write().map_err(failed("write", path));
    fs::remove_file(&draft).map_err(failed("remove", &draft)).and(outcome)
}

#[cfg(test)]
mod tests;
