//! Flags of a controller in a cluster, and what they mean once judged.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bodhi_net::identity;
use bodhi_proto::names::ServiceAccountName;
use bodhi_proto::snapshot::{MappedAccount, Policy, Token};
use clap::Args;
use ipnet::IpNet;

use crate::authority::ServerNames;
use crate::compile::{Deployment, EgressGrant, HostPathGrant, NameGrant, Settings};
use crate::leader;
use crate::store::StoreConfig;

/// Flags of the cluster mode. Lists may be given with commas or several times.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterFlags {
    /// Take ApiModels, Aliases and Secrets from the API server of the cluster (or of the kubeconfig)
    /// [default: inside a cluster, unless --manifests is given]
    #[arg(long, env = "BODHI_KUBERNETES", conflicts_with = "manifests")]
    pub kubernetes: bool,

    /// Namespaces whose objects are served; without it all of the cluster
    #[arg(
        long,
        env = "BODHI_WATCH_NAMESPACES",
        value_name = "NAMESPACE,…",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// Names that a namespace's objects may claim. Without any, the namespace of --namespace may
    /// claim all, and others those under NAMESPACE/
    #[arg(
        long,
        env = "BODHI_NAMES",
        value_name = "NAMESPACE=GLOB,…",
        value_delimiter = ','
    )]
    pub names: Vec<String>,

    /// Private addresses that a namespace's objects may lead to, besides public ones
    #[arg(
        long,
        env = "BODHI_EGRESS_ALLOW",
        value_name = "NAMESPACE=CIDR,…",
        value_delimiter = ','
    )]
    pub egress_allow: Vec<String>,

    /// Folders of nodes that caches of a namespace's local models may be in
    #[arg(
        long,
        env = "BODHI_HOST_PATH",
        value_name = "NAMESPACE=FOLDER,…",
        value_delimiter = ','
    )]
    pub host_path: Vec<String>,

    /// The name of this controller, which no other one has [default: the host name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Where data planes reach this controller's --listen-sync, such as https://10.0.0.7:1138
    /// [default: https:// with POD_IP and the port of --listen-sync]
    #[arg(long, env = "BODHI_ANNOUNCE", value_name = "URL")]
    pub announce: Option<String>,

    /// The address of this pod
    #[arg(long, env = "POD_IP", value_name = "IP", hide = true)]
    pub pod_ip: Option<IpAddr>,

    /// The Lease that says which controller writes
    #[arg(long, value_name = "NAME", default_value = "bodhi-controller")]
    pub lease: String,
}

/// Flags that cannot be served with; the text names the flag and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Not `NAMESPACE=GLOB`.
    #[error("--names must read NAMESPACE=GLOB, such as team-a=team-a/*; it reads '{0}'")]
    Name(String),
    /// Not `NAMESPACE=CIDR`.
    #[error("--egress-allow must read NAMESPACE=CIDR, such as team-a=10.0.0.0/8; it reads '{0}'")]
    Egress(String),
    /// Not `NAMESPACE=FOLDER`.
    #[error("--host-path must read NAMESPACE=FOLDER, such as team-a=/srv/models; it reads '{0}'")]
    HostPath(String),
    /// Not the name of a namespace.
    #[error("--{flag} must be the name of a namespace; it reads '{value}'")]
    Namespace {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: String,
    },
    /// Two controllers could not be told apart.
    #[error("--pod-name must be given: this machine has no host name")]
    NoName,
    /// Data planes would not find the leader.
    #[error(
        "--announce must be given, or POD_IP: data planes cannot reach {0}, where --listen-sync listens"
    )]
    NoAddress(SocketAddr),
}

impl ClusterFlags {
    /// Whether objects come from an API server. `has_manifests`: a folder was named.
    pub fn is_cluster(&self, has_manifests: bool) -> bool {
        // What the kubelet sets in every container.
        let inside = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        self.kubernetes || (inside && !has_manifests)
    }

    /// The Lease that this controller asks for. `listen` is where data planes are served by TCP; a
    /// Unix socket is announced to nobody.
    ///
    /// # Errors
    /// [`ClusterError`] names the flag and what to write instead.
    pub fn lease(
        &self,
        release_namespace: &str,
        listen: Option<SocketAddr>,
    ) -> Result<leader::Config, ClusterError> {
        let name = match &self.pod_name {
            Some(name) => name.clone(),
            None => host_name().ok_or(ClusterError::NoName)?,
        };
        let address = match (&self.announce, listen) {
            (Some(url), _) => url.clone(),
            (None, None) => String::new(),
            (None, Some(listen)) => {
                let ip = self.pod_ip.unwrap_or(listen.ip());
                if ip.is_unspecified() {
                    return Err(ClusterError::NoAddress(listen));
                }
                format!("https://{}", SocketAddr::new(ip, listen.port()))
            }
        };
        // A container that is restarted keeps its pod's name; its predecessor's term is over.
        let instance: u32 = rand::random();
        Ok(leader::Config {
            candidate: leader::Candidate {
                identity: format!("{name}_{instance:08x}").into(),
                address: address.into(),
            },
            namespace: release_namespace.to_owned(),
            name: self.lease.clone(),
            timing: leader::Timing::default(),
        })
    }

    /// The operator's word.
    ///
    /// # Errors
    /// [`ClusterError`] names the flag and what to write instead.
    pub fn settings(&self, release_namespace: &str) -> Result<Settings, ClusterError> {
        let namespace = |flag, value: &str| match is_namespace(value) {
            true => Ok(Arc::<str>::from(value)),
            false => Err(ClusterError::Namespace {
                flag,
                value: value.to_owned(),
            }),
        };
        let names = self.names.iter().map(|text| {
            let fault = || ClusterError::Name(text.clone());
            let (of, glob) = text.split_once('=').ok_or_else(fault)?;
            if glob.is_empty() {
                return Err(fault());
            }
            Ok(NameGrant {
                namespace: namespace("names", of)?,
                glob: glob.into(),
            })
        });
        let egress = self.egress_allow.iter().map(|text| {
            let fault = || ClusterError::Egress(text.clone());
            let (of, range) = text.split_once('=').ok_or_else(fault)?;
            Ok(EgressGrant {
                namespace: namespace("egress-allow", of)?,
                range: range.parse::<IpNet>().map_err(|_| fault())?,
            })
        });
        let host_paths = self.host_path.iter().map(|text| {
            let fault = || ClusterError::HostPath(text.clone());
            let (of, folder) = text.split_once('=').ok_or_else(fault)?;
            let folder = Path::new(folder);
            // What could lead out of itself grants nothing.
            let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            if !folder.is_absolute() || !folder.components().all(is_plain) {
                return Err(fault());
            }
            Ok(HostPathGrant {
                namespace: namespace("host-path", of)?,
                folder: folder.into(),
            })
        });
        let watched = self.watch_namespaces.iter();
        let watched = watched.map(|of| namespace("watch-namespaces", of));
        let watched = watched.collect::<Result<BTreeSet<_>, _>>()?;
        Ok(Settings {
            release_namespace: namespace("namespace", release_namespace)?,
            deployment: Deployment::Cluster,
            names: names.collect::<Result<_, _>>()?,
            egress: egress.collect::<Result<_, _>>()?,
            host_paths: host_paths.collect::<Result<_, _>>()?,
            namespaces: (!watched.is_empty()).then_some(watched),
        })
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// How the managed authority is used.
pub struct AuthorityConfig {
    /// The Secret that keeps it.
    pub secret: String,
    /// Under which names this controller is dialled.
    pub names: ServerNames,
    /// Whose pods are data planes.
    pub data_plane: ServiceAccountName,
}

/// What a controller in a cluster is told, judged.
pub struct ClusterConfig {
    /// Folder of the admin token and, unless they are elsewhere, store and master key; made if
    /// missing (mode 0700).
    pub data: PathBuf,
    /// What is remembered, and where.
    pub store: StoreConfig,
    /// The operator's word.
    pub settings: Settings,
    /// The Lease, and who asks for it.
    pub lease: leader::Config,
    /// Who this controller is to the others; without it they cannot be asked.
    pub identity: Option<Arc<identity::Client>>,
    /// Gateway-wide lists and caps.
    pub policy: Policy,
    /// ServiceAccounts that may call.
    pub callers: Vec<MappedAccount>,
    /// The managed authority, where it is in use.
    pub authority: Option<AuthorityConfig>,
    /// Tokens that the environment sets.
    pub static_tokens: Vec<Arc<Token>>,
}

/// A DNS label (RFC 1123), as every namespace's name is.
fn is_namespace(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(names: &[&str], egress: &[&str], watched: &[&str]) -> ClusterFlags {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        ClusterFlags {
            names: owned(names),
            egress_allow: owned(egress),
            watch_namespaces: owned(watched),
            ..ClusterFlags::default()
        }
    }

    #[test]
    fn the_operators_word_is_read() {
        let mut flags = flags(
            &["a=gpt-*", "b=x=y"],
            &["a=10.0.0.0/8", "a=fd00::/8"],
            &["a", "b"],
        );
        flags.host_path = vec!["a=/srv/models".into()];
        let settings = flags.settings("bodhi").unwrap();
        assert_eq!(*settings.host_paths[0].folder, *Path::new("/srv/models"));
        assert_eq!(settings.deployment, Deployment::Cluster);
        assert_eq!(&*settings.names[1].glob, "x=y");
        assert_eq!(settings.egress.len(), 2);
        assert_eq!(settings.namespaces.unwrap().len(), 2);
        let all = ClusterFlags::default().settings("bodhi").unwrap();
        assert_eq!(all.namespaces, None);
    }

    #[test]
    fn a_controller_announces_an_address_that_data_planes_reach() {
        let address = "0.0.0.0:1138".parse().unwrap();
        let listen = Some(address);
        let mut flags = flags(&[], &[], &[]);
        flags.pod_name = Some("c-0".into());
        let fault = flags.lease("bodhi", listen).unwrap_err();
        assert_eq!(fault, ClusterError::NoAddress(address));
        flags.pod_ip = Some("10.0.0.7".parse().unwrap());
        let one = flags.lease("bodhi", listen).unwrap().candidate;
        assert_eq!(&*one.address, "https://10.0.0.7:1138");
        let two = flags.lease("bodhi", listen).unwrap().candidate;
        assert!(one.identity.starts_with("c-0_") && one.identity != two.identity);
        flags.announce = Some("https://c-0.bodhi:1138".into());
        let named = flags.lease("bodhi", listen).unwrap().candidate;
        assert_eq!(&*named.address, "https://c-0.bodhi:1138");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_flag() {
        let fault = |flags: ClusterFlags| flags.settings("bodhi").unwrap_err().to_string();
        assert!(fault(flags(&["a"], &[], &[])).starts_with("--names must read"));
        assert!(fault(flags(&["a="], &[], &[])).starts_with("--names must read"));
        assert!(fault(flags(&["A=x"], &[], &[])).starts_with("--names must be the name"));
        assert!(fault(flags(&[], &["a=10.0.0.0/33"], &[])).starts_with("--egress-allow must read"));
        assert!(fault(flags(&[], &[], &["a b"])).starts_with("--watch-namespaces must be"));
        for wrong in ["a=srv", "a=", "/srv", "a=/srv/../etc"] {
            let mut flags = flags(&[], &[], &[]);
            flags.host_path = vec![wrong.into()];
            assert!(fault(flags).starts_with("--host-path must read"), "{wrong}");
        }
        let release = ClusterFlags::default().settings("").unwrap_err();
        assert!(release.to_string().starts_with("--namespace must be"));
    }
}
