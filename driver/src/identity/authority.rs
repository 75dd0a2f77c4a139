//! An authority in memory: signs for agents what they ask for, once somebody else has found out who they are.
//!
//! Assumption: whoever calls [`Authority::sign_agent`] has proven that the asker is the agent of that host. What the
//! authority checks itself is that the request was made by the holder of its key, and that it asks for exactly the one
//! name that this host may have. Nothing else of the request gets into the certificate.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::tls::{self, Credentials, TlsError};
use super::{CONTROLLER, agent_name};
use crate::domain::{Fault, HostName};

/// The authority outlives many certificates.
const CA_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Certificates are valid since this long before they were made, because clocks differ.
const BACKDATED: Duration = Duration::from_hours(1);
/// A request is a key and a name.
const REQUEST_LIMIT_BYTES: usize = 16 << 10;

/// Why something cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority itself.
    #[error(
        "the authority cannot be used: {0}; restore it from your backup, or remove it to have a new one made"
    )]
    Authority(String),
    /// A request that is none.
    #[error("this is not a certificate request ({0}); the agent makes a new one at its next attempt")]
    Request(String),
    /// A request for another name.
    #[error(
        "the request asks for {asked}, but host {host} may have {allowed} and nothing else; start the agent with the name of its own node"
    )]
    Name {
        /// What was asked for.
        asked: String,
        /// The only name that is allowed.
        allowed: String,
        /// Whose token it came with.
        host: HostName,
    },
    /// What was signed does not hold.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<AuthorityError> for Fault {
    fn from(error: AuthorityError) -> Self {
        let message = error.to_string();
        match error {
            AuthorityError::Authority(_) | AuthorityError::Tls(_) => Self::precondition(message),
            AuthorityError::Request(_) => Self::invalid(message),
            AuthorityError::Name { .. } => Self::denied(message),
        }
    }
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key; never logged.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, to be kept somewhere safe.
    pub fn make() -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate().map_err(authority)?;
        let mut params = params("Stillpoint CA", CA_LIFE).map_err(authority)?;
        params.subject_alt_names.clear();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(authority)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// The authority that was kept.
    pub fn from_pair(pair: &Pair) -> Result<Self, AuthorityError> {
        tls::authority_valid_until(&pair.certificate).map_err(AuthorityError::Authority)?;
        let key = KeyPair::from_pem(&pair.key).map_err(authority)?;
        Ok(Self { certificate: pair.certificate.clone(), key })
    }

    /// Its certificate, PEM: what everybody else needs to know about it.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The certificate of the agent of `host`, for the key of this request.
    pub fn sign_agent(
        &self,
        request: &str,
        host: &HostName,
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        if request.len() > REQUEST_LIMIT_BYTES {
            return Err(AuthorityError::Request(format!("it has {} bytes", request.len())));
        }
        let asked = CertificateSigningRequestParams::from_pem(request)
            .map_err(|why| AuthorityError::Request(why.to_string()))?;
        let allowed = agent_name(host);
        if !asks_for_only(&asked.params, &allowed) {
            let asked = names(&asked.params);
            return Err(AuthorityError::Name { asked, allowed, host: host.clone() });
        }
        let mut params = params(&allowed, lifetime).map_err(authority)?;
        leaf(&mut params, vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
        let issuer = self.issuer()?;
        Ok(params.signed_by(&asked.public_key, &issuer).map_err(authority)?.pem())
    }

    /// A new certificate of the controller, which is the server of enrolments and the caller of agents.
    pub fn controller(&self, lifetime: Duration) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::generate().map_err(authority)?;
        let mut params = params(CONTROLLER, lifetime).map_err(authority)?;
        leaf(&mut params, vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
        let issuer = self.issuer()?;
        let certificate = params.signed_by(&key, &issuer).map_err(authority)?.pem();
        let pair = Pair { certificate, key: key.serialize_pem() };
        Ok(Credentials::issued_to_controller(&self.certificate, &pair)?)
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, AuthorityError> {
        Issuer::from_ca_cert_pem(&self.certificate, &self.key).map_err(authority)
    }
}

/// A new key and the request to have it certified as the agent of `host`.
#[derive(Clone)]
pub struct Wish {
    /// The request, PEM.
    pub request: String,
    /// The key, which goes nowhere.
    pub key: String,
}

impl Wish {
    /// Makes both.
    pub fn of_agent(host: &HostName) -> Result<Self, AuthorityError> {
        let name = agent_name(host);
        let failed = |why: rcgen::Error| AuthorityError::Request(format!("{name}: {why}"));
        let key = KeyPair::generate().map_err(failed)?;
        let params = CertificateParams::new(vec![name.clone()]).map_err(failed)?;
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok(Self { request, key: key.serialize_pem() })
    }
}

fn asks_for_only(params: &CertificateParams, allowed: &str) -> bool {
    matches!(params.subject_alt_names.as_slice(), [SanType::DnsName(name)] if name.as_str() == allowed)
}

/// The names of a request, for a message.
fn names(params: &CertificateParams) -> String {
    const SHOWN: usize = 4;
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum, and growing
    let names: Vec<String> = params
        .subject_alt_names
        .iter()
        .take(SHOWN)
        .map(|name| match name {
            SanType::DnsName(name) => name.as_str().chars().take(100).collect(),
            _ => "something that is no DNS name".to_owned(),
        })
        .collect();
    if names.is_empty() { "no name".into() } else { names.join(", ") }
}

fn leaf(params: &mut CertificateParams, usages: Vec<ExtendedKeyUsagePurpose>) {
    params.extended_key_usages = usages;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
}

fn params(name: &str, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + lifetime;
    Ok(params)
}

fn authority(why: rcgen::Error) -> AuthorityError {
    AuthorityError::Authority(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn authority() -> Authority {
        Authority::from_pair(&Authority::make().unwrap()).unwrap()
    }

    #[test]
    fn an_agent_gets_a_certificate_for_its_own_host() {
        let authority = authority();
        let wish = Wish::of_agent(&host("node-1")).unwrap();
        let certificate = authority.sign_agent(&wish.request, &host("node-1"), HOUR).unwrap();
        let pair = Pair { certificate, key: wish.key };
        assert!(Credentials::issued_to_agent(authority.certificate(), &pair, &host("node-1")).is_ok());
        let why = Credentials::issued_to_agent(authority.certificate(), &pair, &host("node-2")).unwrap_err();
        assert!(why.to_string().contains("another name"), "{why}");
    }

    #[test]
    fn a_request_for_another_name_or_for_more_names_is_refused() {
        let authority = authority();
        let ask = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let request =
                CertificateParams::new(names).unwrap().serialize_request(&key).unwrap().pem().unwrap();
            authority.sign_agent(&request, &host("node-1"), HOUR)
        };
        assert!(ask(&["node-1.agent.stillpoint"]).is_ok());
        for names in [
            &["node-2.agent.stillpoint"][..],
            &["node-1.agent.stillpoint", "node-2.agent.stillpoint"],
            &["node-1.agent.stillpoint", "controller.stillpoint"],
            &["controller.stillpoint"],
            &["*.agent.stillpoint"],
            &["10.0.0.1"],
            &[],
        ] {
            let why = ask(names).unwrap_err();
            assert!(matches!(why, AuthorityError::Name { .. }), "{names:?}: {why}");
            assert!(why.to_string().contains("node-1.agent.stillpoint and nothing else"), "{why}");
        }
    }

    #[test]
    fn a_certificate_ends_when_its_time_is_over() {
        let authority = authority();
        let wish = Wish::of_agent(&host("node-1")).unwrap();
        let certificate = authority.sign_agent(&wish.request, &host("node-1"), Duration::ZERO).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        let pair = Pair { certificate, key: wish.key };
        let why = Credentials::issued_to_agent(authority.certificate(), &pair, &host("node-1")).unwrap_err();
        assert!(why.to_string().contains("its time is over"), "{why}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = "x".repeat(1 << 20);
        for garbage in
            ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", &long]
        {
            let why = authority().sign_agent(garbage, &host("node-1"), HOUR).unwrap_err();
            assert!(matches!(why, AuthorityError::Request(_)), "{why}");
        }
    }

    #[test]
    fn an_authority_whose_key_is_another_ones_is_found_out_before_anybody_trusts_it() {
        let (ours, theirs) = (Authority::make().unwrap(), Authority::make().unwrap());
        let mixed = Authority::from_pair(&Pair { certificate: ours.certificate, key: theirs.key }).unwrap();
        assert!(mixed.controller(HOUR).is_err());
        assert!(authority().controller(HOUR).is_ok());
    }

    #[test]
    fn keys_are_not_shown_in_debug_output() {
        let pair = Authority::make().unwrap();
        assert!(!format!("{pair:?}").contains("PRIVATE"));
        assert!(!format!("{:?}", Authority::from_pair(&pair).unwrap()).contains("PRIVATE"));
        assert!(!format!("{:?}", authority().controller(HOUR).unwrap()).contains("PRIVATE"));
    }
}
