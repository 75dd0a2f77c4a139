//! TLS on both ends of the agent API, and the check of the caller's name.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Request, Status};
use webpki::{EndEntityCert, KeyUsage};

use super::authority::Pair;
use super::{CONTROLLER, agent_name, host_of_agent};
use crate::domain::{Fault, HostName};
use crate::wire::status_of;

/// A handshake takes milliseconds; who takes longer is not there.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// Where the certificates of one process are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// Own certificate.
    pub cert: PathBuf,
    /// Own key.
    pub key: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot read {}: {source}; `stillpoint pki init` makes these files", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A key that everybody can read.
    #[error("{} can be read by every user of this host (mode {mode:o}): chmod 600 it", path.display())]
    OpenKey {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file with something else in it.
    #[error("{}: {why}", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate of somebody else, of another authority, or outside its time.
    #[error("{} cannot be used as {name}: {why}; `stillpoint pki` makes a new one", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What it was to be used as.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A certificate that was made just now and does not hold.
    #[error(
        "{what} of {name} cannot be used: {why}; are the clocks of both machines right, and is the authority still the same?"
    )]
    Issued {
        /// Which of the texts.
        what: &'static str,
        /// What it was to be used as.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Who may call a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Only a peer with a certificate of our authority gets through the handshake. Use it together with
    /// [`only_the_controller`].
    WithCertificate,
    /// Anybody: the service behind it finds out who it is.
    Anybody,
}

/// The certificates of one process, read and checked.
#[derive(Clone)]
pub struct Credentials {
    ca: String,
    pair: Pair,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Which of three texts is wrong, and how.
enum Misfit {
    Ca(String),
    Key(String),
    Certificate(String),
}

impl Credentials {
    /// The controller's.
    pub fn of_controller(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, CONTROLLER)
    }

    /// Those of the agent of `host`.
    pub fn of_agent(files: &TlsFiles, host: &HostName) -> Result<Self, TlsError> {
        Self::load(files, &agent_name(host))
    }

    /// Those that the authority `ca` has just issued to the agent of `host`.
    pub fn issued_to_agent(ca: &str, pair: &Pair, host: &HostName) -> Result<Self, TlsError> {
        Self::issued(ca, pair, &agent_name(host))
    }

    /// Those that the authority `ca` has just issued to the controller.
    pub fn issued_to_controller(ca: &str, pair: &Pair) -> Result<Self, TlsError> {
        Self::issued(ca, pair, CONTROLLER)
    }

    fn issued(ca: &str, pair: &Pair, name: &str) -> Result<Self, TlsError> {
        Self::assemble(ca.to_owned(), pair.clone(), name).map_err(|misfit| {
            let (what, why) = match misfit {
                Misfit::Ca(why) => ("the authority's certificate", why),
                Misfit::Key(why) => ("the key", why),
                Misfit::Certificate(why) => ("the certificate", why),
            };
            TlsError::Issued { what, name: name.into(), why }
        })
    }

    fn load(files: &TlsFiles, name: &str) -> Result<Self, TlsError> {
        refuse_open_key(&files.key)?;
        let pair = Pair { certificate: read(&files.cert)?, key: read(&files.key)? };
        Self::assemble(read(&files.ca)?, pair, name).map_err(|misfit| match misfit {
            Misfit::Ca(why) => TlsError::Broken { path: files.ca.clone(), why },
            Misfit::Key(why) => TlsError::Broken { path: files.key.clone(), why },
            Misfit::Certificate(why) => TlsError::Unfit { path: files.cert.clone(), name: name.into(), why },
        })
    }

    fn assemble(ca: String, pair: Pair, name: &str) -> Result<Self, Misfit> {
        authority_valid_until(&ca).map_err(Misfit::Ca)?;
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .map_err(|why| Misfit::Key(format!("there is no private key in it ({why})")))?;
        let leaf = certificate(&pair.certificate).map_err(Misfit::Certificate)?;
        check(&leaf, name, &ca, UnixTime::now()).map_err(|why| Misfit::Certificate(words(&why)))?;
        Ok(Self { ca, pair })
    }

    /// For a server.
    pub fn server(&self, callers: Callers) -> Result<Arc<ServerConfig>, TlsError> {
        let unfit = |why: String| TlsError::Issued { what: "the certificate", name: "a server".into(), why };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|why| unfit(why.to_string()))?;
        let builder = match callers {
            Callers::Anybody => builder.with_no_client_auth(),
            Callers::WithCertificate => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate(&self.ca).map_err(unfit)?).map_err(|why| unfit(why.to_string()))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|why| unfit(why.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key =
            PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).map_err(|why| unfit(why.to_string()))?;
        let chain = vec![certificate(&self.pair.certificate).map_err(unfit)?];
        let mut config = builder.with_single_cert(chain, key).map_err(|why| unfit(why.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// For a connection to the agent of `host`: no other peer will do, whatever its address.
    pub fn client(&self, host: &HostName) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.pair.certificate, &self.pair.key))
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name(agent_name(host))
            .timeout(HANDSHAKE_LIMIT)
    }
}

/// For a connection to the controller by an agent that has no certificate yet: `ca` tells whether it is the controller.
pub fn to_the_controller(ca: &str) -> Result<ClientTlsConfig, TlsError> {
    authority_valid_until(ca).map_err(|why| TlsError::Issued {
        what: "the authority's certificate",
        name: CONTROLLER.into(),
        why,
    })?;
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(CONTROLLER)
        .timeout(HANDSHAKE_LIMIT))
}

/// Interceptor of the agent API: answers nobody but the controller. The handshake has proven that the peer's
/// certificate is of our authority; this looks at whose it is.
pub fn only_the_controller(request: Request<()>) -> Result<Request<()>, Status> {
    let refuse = |why: &str| {
        let message = format!("only {CONTROLLER} may call an agent: {why}; use the controller's certificate");
        Err(status_of(Fault::denied(message)))
    };
    let Some(certificates) = request.peer_certs() else {
        return refuse("this connection has no certificate");
    };
    let Some(certificate) = certificates.first() else {
        return refuse("this connection has no certificate");
    };
    match valid_for(certificate, CONTROLLER) {
        Ok(()) => Ok(request),
        Err(_) => refuse("the certificate of this connection is valid, but somebody else's"),
    }
}

/// The host whose agent is calling, by the certificate of the connection.
pub fn calling_agent<T>(request: &Request<T>) -> Result<HostName, Status> {
    let refuse = || {
        let message = "only another host's agent may call this; its certificate names its host";
        status_of(Fault::denied(message))
    };
    let certificates = request.peer_certs().ok_or_else(refuse)?;
    let certificate = certificates.first().ok_or_else(refuse)?;
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| refuse())?;
    let host = certificate.valid_dns_names().find_map(host_of_agent);
    host.ok_or_else(refuse)
}

/// A name that can stand in a certificate.
pub(super) fn server_name(name: &str) -> Result<ServerName<'_>, String> {
    ServerName::try_from(name).map_err(|why| why.to_string())
}

/// The last day of an authority's certificate.
pub(super) fn authority_valid_until(ca: &str) -> Result<Date, String> {
    let der = certificate(ca)?;
    webpki::anchor_from_trusted_cert(&der).map_err(|why| words(&why))?;
    not_after(&der)
}

/// The last day of a certificate of `name` that `ca` has signed. One whose time is over is still read: it is to
/// be told about, not refused.
pub(super) fn leaf_valid_until(cert: &str, name: &str, ca: &str) -> Result<Date, String> {
    let der = certificate(cert)?;
    match check(&der, name, ca, UnixTime::now()) {
        Ok(()) | Err(webpki::Error::CertExpired { .. }) => not_after(&der),
        Err(why) => Err(words(&why)),
    }
}

fn check(cert: &CertificateDer<'_>, name: &str, ca: &str, now: UnixTime) -> Result<(), webpki::Error> {
    let ca = certificate(ca).map_err(|_| webpki::Error::BadDer)?;
    let anchors = [webpki::anchor_from_trusted_cert(&ca)?];
    valid_for(cert, name)?;
    verify(&EndEntityCert::try_from(cert)?, &anchors, now)
}

fn valid_for(cert: &CertificateDer<'_>, name: &str) -> Result<(), webpki::Error> {
    let name = ServerName::try_from(name).map_err(|_| webpki::Error::MalformedDnsIdentifier)?;
    EndEntityCert::try_from(cert)?.verify_is_valid_for_subject_name(&name)
}

fn verify(cert: &EndEntityCert<'_>, anchors: &[TrustAnchor<'_>], now: UnixTime) -> Result<(), webpki::Error> {
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    cert.verify_for_usage(algorithms, anchors, &[], now, KeyUsage::client_auth(), None, None).map(drop)
}

/// The library reads a certificate's last second only to say that it is over; so it is asked about the last
/// second that X.509 can write, before which every certificate has ended.
fn not_after(der: &CertificateDer<'_>) -> Result<Date, String> {
    const END_OF_TIME_S: u64 = 253_402_300_799;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(END_OF_TIME_S));
    let cert = EndEntityCert::try_from(der).map_err(|why| words(&why))?;
    let Err(webpki::Error::CertExpired { not_after, .. }) = verify(&cert, &[], end_of_time) else {
        return Err("it never ends".into());
    };
    let seconds = i64::try_from(not_after.as_secs()).map_err(|why| why.to_string())?;
    let instant = Timestamp::from_second(seconds).map_err(|why| why.to_string())?;
    Ok(instant.to_zoned(TimeZone::UTC).date())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|why| format!("there is no certificate in it ({why})"))
}

/// What is wrong with a certificate, for the cases that people cause.
fn words(why: &webpki::Error) -> String {
    use webpki::Error;
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum, and growing
    match why {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {
            "another authority has signed it".into()
        }
        Error::CertNotValidForName(_) => "it carries another name".into(),
        Error::CertExpired { .. } => "its time is over".into(),
        Error::CertNotValidYet { .. } => "its time has not begun; is the clock right?".into(),
        other => format!("{other:?}"),
    }
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::File { path: path.into(), source })
}

/// Group access is left to the administrator (a Secret mounted with an fsGroup has it).
fn refuse_open_key(path: &Path) -> Result<(), TlsError> {
    let meta = fs::metadata(path).map_err(|source| TlsError::File { path: path.into(), source })?;
    let mode = meta.mode() & 0o777;
    let others = mode & 0o007;
    if others == 0 { Ok(()) } else { Err(TlsError::OpenKey { path: path.into(), mode }) }
}

#[cfg(test)]
mod tests;
