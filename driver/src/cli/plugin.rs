//! `kubectl stillpoint`: what the administrator of a namespace does.

use clap::{Parser, Subcommand};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::args::RuleCommand;
use crate::domain::Fault;

use super::output::print;
use super::rule;

/// What the account of the controller is called.
const ACCOUNT: &str = "stillpoint-controller";

/// Rules of Stillpoint in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "kubectl stillpoint", version, about, max_term_width = 110)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Allow the controller to run the commands of a namespace's Rules in its pods: makes RoleBinding stillpoint-exec.
    Allow {
        /// The namespace.
        #[arg(long, short = 'n', value_name = "NAMESPACE")]
        namespace: String,
        /// Allow it to read the namespace's Secrets too: makes RoleBinding stillpoint-secrets. Whoever may write Rules
        /// there can then use every Secret of the namespace.
        #[arg(long)]
        secrets: bool,
        /// Where the controller runs.
        #[arg(long, value_name = "NAMESPACE", default_value = "stillpoint-system")]
        controller_namespace: String,
    },
    /// Read rules: convert, lint (plan and test ask a standalone controller).
    #[command(subcommand)]
    Rule(RuleCommand),
}

/// Does it.
pub async fn run(args: Args) -> Result<(), Fault> {
    match args.command {
        Command::Rule(command) => rule::run(command).await,
        Command::Allow { namespace, secrets, controller_namespace } => {
            let client = Client::try_default().await.map_err(|error| {
                Fault::unavailable(format!("cannot reach a cluster: {error}; check KUBECONFIG"))
            })?;
            let mut roles = vec!["stillpoint-exec"];
            roles.extend(secrets.then_some("stillpoint-secrets"));
            for role in roles {
                print(&bind(client.clone(), role, &namespace, &controller_namespace).await?)?;
            }
            Ok(())
        }
    }
}

/// Binds a role to the controller in one namespace, and says what became of it.
async fn bind(client: Client, role: &str, namespace: &str, controller: &str) -> Result<String, Fault> {
    let api: Api<RoleBinding> = Api::namespaced(client, namespace);
    let wanted = binding(role, namespace, controller);
    let failed = |error: kube::Error| {
        Fault::precondition(format!("cannot make RoleBinding {role} in namespace {namespace}: {error}"))
    };
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => Ok(format!("rolebinding {namespace}/{role} made: {controller}/{ACCOUNT} has {role} there")),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let found = api.get(role).await.map_err(failed)?;
            if found.role_ref == wanted.role_ref && found.subjects == wanted.subjects {
                return Ok(format!("rolebinding {namespace}/{role} exists already"));
            }
            Err(Fault::already_exists(format!(
                "RoleBinding {namespace}/{role} exists and binds something else; look at it, and delete it first"
            )))
        }
        Err(error) => Err(failed(error)),
    }
}

fn binding(role: &str, namespace: &str, controller: &str) -> RoleBinding {
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(role.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: ACCOUNT.to_owned(),
            namespace: Some(controller.to_owned()),
            ..Subject::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_rules::kube::fake::FakeCluster;

    #[test]
    fn the_command_that_messages_name_is_one() {
        let parse = |words: &[&str]| Args::try_parse_from([&["kubectl-stillpoint"], words].concat());
        let args = parse(&["allow", "-n", "shop", "--secrets"]).unwrap();
        assert!(matches!(args.command, Command::Allow { secrets: true, .. }));
        assert!(parse(&["allow"]).is_err());
    }

    #[tokio::test]
    async fn allowing_twice_is_allowing_once_and_nothing_foreign_is_changed() {
        let cluster = FakeCluster::start().await.unwrap();
        let allow = || bind(cluster.client().unwrap(), "stillpoint-exec", "shop", "stillpoint-system");
        assert!(allow().await.unwrap().contains("made"));
        assert!(allow().await.unwrap().contains("exists already"));
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/stillpoint-exec";
        let mut found = cluster.get(path).unwrap();
        assert_eq!(found["subjects"][0]["name"], "stillpoint-controller");
        assert_eq!(found["roleRef"]["name"], "stillpoint-exec");
        found["roleRef"]["name"] = "another".into();
        cluster.put(path, found);
        assert!(allow().await.unwrap_err().message.contains("binds something else"));
    }
}
