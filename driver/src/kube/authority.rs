//! The certificate authority of a cluster: its key in a Secret that only the controller reads, its certificate and the
//! addresses at which agents may enrol in a ConfigMap that is mounted into the agents' pods.
//!
//! # Guarantees
//! The first controller that starts makes the authority; of several that start at once one wins and the others take its
//! authority. It is never replaced. An agent needs neither DNS nor a Service to find a controller: the ConfigMap lists
//! the last [`ADDRESSES_MAX`] controllers that have started, the newest first, and a wrong one cannot pass for a
//! controller, because it has no certificate.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};

use super::api::{api_fault, is_absent, is_conflict};
use super::ownership::{Installation, MADE_IN, Mark};
use crate::domain::{Code, Fault};
use crate::identity::authority::{Authority, Pair};

/// Name of the Secret.
pub const SECRET: &str = "stillpoint-ca";
/// Name of the ConfigMap.
pub const TRUST: &str = "stillpoint-trust";
/// The authority's certificate in it; also the name of the file in the agents' pods.
pub const CA_FILE: &str = "ca.crt";
/// Where to enrol, one `ip:port` per line; also a file.
pub const CONTROLLERS_FILE: &str = "controllers";
const AFTER_DELETION: &str = "the controller makes another authority, and agents enrol again; whoever has the backup has \
                              the key of the restored one";
/// Addresses that are kept; an agent tries them in turn.
const ADDRESSES_MAX: usize = 4;
/// How often a ConfigMap that somebody else changes at the same time is written again.
const WRITES_MAX: usize = 5;

/// Where the authority is kept.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// The authority that is there.
    async fn read(&self) -> Result<Option<Pair>, Fault>;
    /// Keeps a new one; ALREADY_EXISTS when somebody was faster.
    async fn create(&self, pair: &Pair) -> Result<(), Fault>;
}

/// The authority of this cluster, made where there is none.
pub async fn load_or_make(keeper: &dyn Keeper) -> Result<Authority, Fault> {
    if let Some(pair) = keeper.read().await? {
        return Ok(Authority::from_pair(&pair)?);
    }
    let pair = Authority::make()?;
    match keeper.create(&pair).await {
        Ok(()) => {
            tracing::info!("made the certificate authority of this cluster");
            Ok(Authority::from_pair(&pair)?)
        }
        Err(fault) if fault.code == Code::AlreadyExists => {
            let theirs = keeper.read().await?;
            let theirs =
                theirs.ok_or_else(|| Fault::aborted(format!("Secret {SECRET} came and went; try again")))?;
            Ok(Authority::from_pair(&theirs)?)
        }
        Err(fault) => Err(fault),
    }
}

/// The Secret.
pub struct ClusterSecret {
    secrets: Api<Secret>,
    installation: Installation,
}

impl ClusterSecret {
    /// The one in this installation's namespace.
    pub fn new(client: kube::Client, installation: &Installation) -> Self {
        let secrets = Api::namespaced(client, &installation.namespace);
        Self { secrets, installation: installation.clone() }
    }
}

#[async_trait]
impl Keeper for ClusterSecret {
    async fn read(&self) -> Result<Option<Pair>, Fault> {
        let found = self.secrets.get_opt(SECRET).await;
        let found = found.map_err(|error| api_fault("cannot read Secret stillpoint-ca", &error))?;
        let Some(secret) = found else { return Ok(None) };
        match self.installation.check("Secret", SECRET, &secret.metadata, AFTER_DELETION)? {
            Mark::Own => {}
            Mark::Absent => tracing::warn!(
                "Secret {SECRET} does not say in which installation it was made; where it is of this one, say so: kubectl -n \
                 {namespace} annotate secret/{SECRET} {MADE_IN}={uid}",
                namespace = self.installation.namespace,
                uid = self.installation.uid
            ),
        }
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            let bytes = data.get(key).map(|bytes| bytes.0.clone()).unwrap_or_default();
            String::from_utf8(bytes).map_err(|_| {
                Fault::precondition(format!(
                    "{key} in Secret {SECRET} is not PEM; restore it from your backup"
                ))
            })
        };
        Ok(Some(Pair { certificate: text("tls.crt")?, key: text("tls.key")? }))
    }

    async fn create(&self, pair: &Pair) -> Result<(), Fault> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), bytes(&pair.certificate)),
            ("tls.key".to_owned(), bytes(&pair.key)),
        ]);
        let metadata = self.installation.metadata(SECRET);
        let secret = Secret {
            metadata,
            data: Some(data),
            type_: Some("kubernetes.io/tls".into()),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => Err(Fault::already_exists("another controller made it")),
            Err(error) => Err(api_fault("cannot make Secret stillpoint-ca", &error)),
        }
    }
}

/// The ConfigMap for agents.
pub struct TrustMap {
    maps: Api<ConfigMap>,
    installation: Installation,
}

impl TrustMap {
    /// The one in this installation's namespace.
    pub fn new(client: kube::Client, installation: &Installation) -> Self {
        let maps = Api::namespaced(client, &installation.namespace);
        Self { maps, installation: installation.clone() }
    }

    /// Writes the authority's certificate and this controller's address, unless both are there. Of a map that was made in
    /// another installation nothing is kept: agents would show their tokens to controllers of that one.
    pub async fn publish(&self, ca: &str, own: &str) -> Result<(), Fault> {
        let failed = |error: kube::Error| api_fault("cannot write ConfigMap stillpoint-trust", &error);
        for _ in 0..WRITES_MAX {
            let found = self.maps.get_opt(TRUST).await.map_err(failed)?;
            let written = match found {
                None => {
                    let metadata = self.installation.metadata(TRUST);
                    let data = Some(trust(&BTreeMap::new(), ca, own));
                    let map = ConfigMap { metadata, data, ..ConfigMap::default() };
                    self.maps.create(&PostParams::default(), &map).await
                }
                Some(mut map) => {
                    let mark = self.installation.check("ConfigMap", TRUST, &map.metadata, "");
                    let before = map.data.take().unwrap_or_default();
                    let after = if mark.is_ok() {
                        trust(&before, ca, own)
                    } else {
                        tracing::warn!(
                            "ConfigMap {TRUST} was made in another installation, as a restored backup contains it; it is \
                             written anew"
                        );
                        trust(&BTreeMap::new(), ca, own)
                    };
                    if before == after && mark.is_ok_and(|mark| mark == Mark::Own) {
                        return Ok(());
                    }
                    self.installation.mark(&mut map.metadata);
                    map.data = Some(after);
                    self.maps.replace(TRUST, &PostParams::default(), &map).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) || is_absent(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Fault::aborted(format!("ConfigMap {TRUST} is changed by others all the time; it is tried again")))
    }
}

/// What the ConfigMap says with this controller in it. Keys of other people stay.
fn trust(before: &BTreeMap<String, String>, ca: &str, own: &str) -> BTreeMap<String, String> {
    let mut after = before.clone();
    after.insert(CA_FILE.into(), ca.into());
    let known = before.get(CONTROLLERS_FILE).map_or("", String::as_str);
    if !known.lines().any(|line| line == own) {
        let others = known.lines().filter(|line| !line.is_empty());
        let all: Vec<&str> = std::iter::once(own).chain(others).take(ADDRESSES_MAX).collect();
        after.insert(CONTROLLERS_FILE.into(), all.join("\n") + "\n");
    }
    after
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A Secret in memory; `faster` is what another controller creates just before us.
    #[derive(Default)]
    struct Drawer {
        kept: Mutex<Option<Pair>>,
        faster: Mutex<Option<Pair>>,
    }

    #[async_trait]
    impl Keeper for Drawer {
        async fn read(&self) -> Result<Option<Pair>, Fault> {
            Ok(self.kept.lock().unwrap().clone())
        }
        async fn create(&self, pair: &Pair) -> Result<(), Fault> {
            let mut kept = self.kept.lock().unwrap();
            if let Some(theirs) = self.faster.lock().unwrap().take() {
                *kept = Some(theirs);
            }
            if kept.is_some() {
                return Err(Fault::already_exists("there"));
            }
            *kept = Some(pair.clone());
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_authority_is_made_once_and_found_again() {
        let drawer = Drawer::default();
        let first = load_or_make(&drawer).await.unwrap();
        let second = load_or_make(&drawer).await.unwrap();
        assert_eq!(first.certificate(), second.certificate());
    }

    #[tokio::test]
    async fn of_two_controllers_that_start_at_once_one_authority_remains() {
        let theirs = Authority::make().unwrap();
        let drawer = Drawer { faster: Mutex::new(Some(theirs.clone())), ..Drawer::default() };
        assert_eq!(load_or_make(&drawer).await.unwrap().certificate(), theirs.certificate);
    }

    #[tokio::test]
    async fn a_damaged_authority_is_reported_and_never_replaced() {
        let broken = Pair { certificate: "x".into(), key: "y".into() };
        let drawer = Drawer { kept: Mutex::new(Some(broken.clone())), ..Drawer::default() };
        let fault = load_or_make(&drawer).await.unwrap_err();
        assert_eq!(fault.code, Code::Precondition, "{fault}");
        assert_eq!(drawer.read().await.unwrap(), Some(broken));
    }

    #[test]
    fn the_newest_controllers_are_listed_first_and_old_ones_are_forgotten() {
        let mut map = BTreeMap::from([("note".to_owned(), "kept".to_owned())]);
        for number in 1..=6 {
            map = trust(&map, "CA", &format!("10.0.0.{number}:9702"));
        }
        assert_eq!(map[CONTROLLERS_FILE], "10.0.0.6:9702\n10.0.0.5:9702\n10.0.0.4:9702\n10.0.0.3:9702\n");
        assert_eq!((map[CA_FILE].as_str(), map["note"].as_str()), ("CA", "kept"));
        assert_eq!(trust(&map, "CA", "10.0.0.4:9702"), map, "nothing to write");
    }
}
