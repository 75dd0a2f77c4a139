//! The cluster's certificate authority, certificates and kubeconfigs, made anew with every cluster.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::layout::{API_SERVICE, DOMAIN};
use super::{Layout, Place};

/// Whom a certificate names, and where it may be used as a server.
struct Subject {
    file: String,
    name: String,
    group: Option<&'static str>,
    addresses: Vec<String>,
    hosts: Vec<String>,
}

impl Subject {
    fn client(file: &str, name: &str, group: Option<&'static str>) -> Self {
        Self { file: file.into(), name: name.into(), group, addresses: Vec::new(), hosts: Vec::new() }
    }
}

/// Writes everything below `<run>/pki`.
pub fn write(layout: &Layout) -> Result<()> {
    layout.directory("pki")?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "stillpoint-cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key)?;
    publish(layout, "ca.crt", &certificate.pem())?;
    let issuer = Issuer::new(params, key);
    for subject in subjects() {
        issue(layout, &issuer, &subject)?;
    }
    let tokens = KeyPair::generate()?;
    publish(layout, "service-accounts.key", &tokens.serialize_pem())?;
    publish(layout, "service-accounts.pub", &tokens.public_key_pem())?;
    for user in ["admin", "controller-manager", "scheduler", "proxy"] {
        kubeconfig(layout, user)?;
    }
    for node in Place::nodes() {
        kubeconfig(layout, &node.to_string())?;
    }
    Ok(())
}

fn subjects() -> Vec<Subject> {
    let api = Subject {
        file: "apiserver".into(),
        name: "kube-apiserver".into(),
        group: None,
        addresses: vec![API_SERVICE.into(), Place::ControlPlane.address(), "127.0.0.1".into()],
        hosts: ["", ".default", ".default.svc", &format!(".default.svc.{DOMAIN}")]
            .iter()
            .map(|end| format!("kubernetes{end}"))
            .collect(),
    };
    let mut all = vec![
        api,
        Subject::client("apiserver-kubelet", "kube-apiserver-kubelet", Some("system:masters")),
        Subject::client("admin", "admin", Some("system:masters")),
        Subject::client("controller-manager", "system:kube-controller-manager", None),
        Subject::client("scheduler", "system:kube-scheduler", None),
        Subject::client("proxy", "system:kube-proxy", None),
    ];
    all.extend(Place::nodes().map(|node| Subject {
        file: node.to_string(),
        name: format!("system:node:{node}"),
        group: Some("system:nodes"),
        addresses: vec![node.address()],
        hosts: vec![node.to_string()],
    }));
    all
}

fn issue(layout: &Layout, issuer: &Issuer<'_, KeyPair>, subject: &Subject) -> Result<()> {
    let mut params = CertificateParams::new(subject.hosts.clone())?;
    for address in &subject.addresses {
        let address: IpAddr = address.parse().context("addresses of the cluster are addresses")?;
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    publish(layout, &format!("{}.crt", subject.file), &params.signed_by(&key, issuer)?.pem())?;
    publish(layout, &format!("{}.key", subject.file), &key.serialize_pem())
}

fn kubeconfig(layout: &Layout, user: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: stillpoint\n\
         contexts: [{{name: stillpoint, context: {{cluster: stillpoint, user: {user}}}}}]\n\
         clusters: [{{name: stillpoint, cluster: {{server: 'https://{api}:443', certificate-authority: {ca}}}}}]\n\
         users: [{{name: {user}, user: {{client-certificate: {crt}, client-key: {key}}}}}]\n",
        api = Place::ControlPlane.address(),
        ca = layout.pki("ca.crt").display(),
        crt = layout.pki(&format!("{user}.crt")).display(),
        key = layout.pki(&format!("{user}.key")).display(),
    );
    publish(layout, &format!("{user}.kubeconfig"), &text)
}

fn publish(layout: &Layout, file: &str, content: &str) -> Result<()> {
    let path = layout.pki(file);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
