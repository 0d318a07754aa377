//! `bodhi up`: controller and data plane in one process, joined by the same gRPC protocol
//! that joins them across a network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use bodhi_controller::app::{Controller, FirstStart};
use bodhi_controller::config::{Config, PolicyFlags, StoreFlags, WorkerFlags};
use bodhi_controller::source::BuiltIn;
use bodhi_dataplane::app::DataPlane;
use bodhi_dataplane::config::ServeFlags;
use bodhi_dataplane::control;
use bodhi_dataplane::fallback::Fallback;
use bodhi_net::drain;
use bodhi_proto::secret::Secret;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use crate::output::{Answer, Output};

/// On one machine nobody watches readiness, and a person waits for the prompt.
const DRAIN: drain::Times = drain::Times {
    lame_duck: Duration::ZERO,
    drain: Duration::from_secs(30),
};
/// Where objects without a namespace belong.
const NAMESPACE: &str = "bodhi";
/// Requests have ended when workers are stopped: they need no longer than to notice.
const WORKERS_STOP: Duration = Duration::from_secs(5);
/// Longest wait for the first configuration before the banner is printed all the same.
const READY_WAIT: Duration = Duration::from_secs(10);

/// A first request, for a gateway with a model.
const DEMO_CALL: &str = "/v1/chat/completions -H 'Content-Type: application/json' -d \
     '{\"model\": \"demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'";

/// Arguments of `bodhi up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of ApiModels, Aliases and Secrets in YAML, watched for change
    /// [default: `manifests` in the data folder]
    #[arg(long, env = "BODHI_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,

    /// Serve without credentials, to this machine only
    #[arg(long, env = "BODHI_ANONYMOUS")]
    pub(crate) anonymous: bool,

    #[command(flatten)]
    store: StoreFlags,

    #[command(flatten)]
    serve: ServeFlags,

    #[command(flatten)]
    policy: PolicyFlags,

    #[command(flatten)]
    worker: WorkerFlags,

    /// Serve this GGUF file as the model `demo`
    #[arg(long, env = "BODHI_DEMO_MODEL", value_name = "FILE")]
    demo_model: Option<PathBuf>,
}

/// A provider whose key may be in the environment.
struct Provider {
    variable: &'static str,
    secret: &'static str,
    label: &'static str,
    manifest: &'static str,
}

const PROVIDERS: [Provider; 3] = [
    Provider {
        variable: "OPENAI_API_KEY",
        secret: "openai",
        label: "deploy/examples/openai.yaml",
        manifest: include_str!("../../../deploy/examples/openai.yaml"),
    },
    Provider {
        variable: "ANTHROPIC_API_KEY",
        secret: "anthropic",
        label: "deploy/examples/anthropic.yaml",
        manifest: include_str!("../../../deploy/examples/anthropic.yaml"),
    },
    Provider {
        variable: "GEMINI_API_KEY",
        secret: "gemini",
        label: "deploy/examples/gemini.yaml",
        manifest: include_str!("../../../deploy/examples/gemini.yaml"),
    },
];

/// Runs until it is told to stop.
pub(crate) fn run(args: Args, data: PathBuf, output: Output) -> anyhow::Result<Answer> {
    bodhi_net::logging::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, data, output))
}

async fn serve(args: Args, data: PathBuf, output: Output) -> anyhow::Result<Answer> {
    let config = args.serve.judge(args.anonymous, DRAIN)?;
    let manifests = args.manifests.unwrap_or_else(|| data.join("manifests"));
    let mut built_in = from_environment(|name| std::env::var(name).ok());
    let demo = args.demo_model.is_some();
    if let Some(file) = args.demo_model {
        built_in.push(demo_alias(&file)?);
    }
    let controller = Controller::start(Config {
        store: args.store.judge(&data)?,
        data,
        manifests: manifests.clone(),
        built_in,
        namespace: NAMESPACE.into(),
        policy: args.policy.policy()?,
        static_tokens: args.policy.static_tokens()?,
        worker_patience: args.worker.patience(),
        worker_binary: args.worker.worker_binary,
    })
    .await?;
    let link = control::Config {
        node: "standalone".into(),
        connect: control::Connect::InProcess(controller.sync.in_process()),
        disk: None,
    };
    let plane = DataPlane::start(&config, link, Some(fallback(controller.admin.clone()))).await?;
    // Only now: who asks for tokens of a gateway that cannot listen would wonder.
    let first = controller.first_start().await?;
    let (address, admin) = (plane.address(), plane.admin_address()?);
    let ready = plane.ready();
    let (drain, signal) = drain::channel();
    let mut serving = tokio::spawn(plane.serve(signal));
    // Late or not, the gateway listens and says by itself what it lacks.
    let _ = tokio::time::timeout(READY_WAIT, ready).await;
    controller.caught_up(READY_WAIT).await?;
    let banner = Banner {
        address: match address.ip().is_loopback() {
            true => format!("http://localhost:{}", address.port()),
            false => format!("http://{address}"),
        },
        admin: format!("http://{admin}"),
        token: match (args.anonymous, first) {
            (true, _) => Shown::None,
            (false, FirstStart::Token(token)) => Shown::New(token),
            (false, FirstStart::NotFirst) => Shown::Kept(controller.admin_token_file.clone()),
        },
        manifests,
        demo,
    };
    print!("{}", banner.render(output));
    tokio::select! {
        ended = &mut serving => ended??,
        signal = drain::terminate() => {
            signal.context("signals cannot be watched")?;
            let finished = async {
                drain.begin(config.drain, async { let _ = (&mut serving).await; }).await;
            };
            // A second signal means: now.
            tokio::select! {
                () = finished => {}
                _ = drain::terminate() => {}
            }
        }
    }
    controller.stop_workers(WORKERS_STOP).await;
    controller.sync.goodbye("the gateway stops");
    Ok(Answer::new(json!({"stopped": true}), ""))
}

/// For each provider key in the environment a labelled Secret in memory and its example.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Vec<BuiltIn> {
    let set = PROVIDERS.iter().filter_map(|provider| {
        let key = variable(provider.variable).filter(|key| !key.trim().is_empty())?;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": provider.secret,
                "namespace": NAMESPACE,
                "labels": {"bodhi.dev/credential": "true"},
            },
            "stringData": {"apiKey": key.trim()},
        });
        let documents = [
            BuiltIn {
                label: provider.variable.into(),
                // JSON is YAML.
                text: secret.to_string(),
            },
            BuiltIn {
                label: provider.label.into(),
                text: provider.manifest.into(),
            },
        ];
        Some(documents)
    });
    set.flatten().collect()
}

/// An Alias `demo` for a model file.
fn demo_alias(file: &Path) -> anyhow::Result<BuiltIn> {
    let file = std::path::absolute(file)?;
    let file = file.to_str().context("--demo-model must be valid UTF-8")?;
    let alias = json!({
        "apiVersion": "bodhi.dev/v1alpha1",
        "kind": "Alias",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "target": {
                "type": "Local",
                "local": {"source": format!("file://{file}"), "features": ["Chat", "Completions"]},
            },
        },
    });
    Ok(BuiltIn {
        label: "--demo-model".into(),
        text: alias.to_string(),
    })
}

/// The admin API as the data plane's fallback.
fn fallback(admin: Router) -> Fallback {
    let runtime = tokio::runtime::Handle::current();
    Fallback::new(runtime, move |request: Request<Bytes>| {
        let admin = admin.clone();
        async move {
            let answered = admin.oneshot(request.map(axum::body::Body::from)).await;
            let (head, body) = match answered {
                Ok(response) => response.into_parts(),
                Err(never) => match never {},
            };
            match body.collect().await {
                Ok(whole) => Response::from_parts(head, whole.to_bytes()),
                Err(error) => {
                    tracing::error!(%error, "an answer of the admin API broke off");
                    let mut response = Response::new(Bytes::new());
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    response
                }
            }
        }
    })
}

/// What is shown of a token.
enum Shown {
    /// Callers need none.
    None,
    /// Made now, shown once.
    New(Secret),
    /// The admin token's file.
    Kept(PathBuf),
}

/// What a person who has just started the gateway wants to know.
struct Banner {
    address: String,
    admin: String,
    token: Shown,
    manifests: PathBuf,
    /// Whether there is a model `demo`.
    demo: bool,
}

impl Banner {
    fn render(&self, output: Output) -> String {
        match output {
            Output::Json => {
                let token = match &self.token {
                    Shown::New(token) => Some(token.expose()),
                    Shown::None | Shown::Kept(_) => None,
                };
                let line = json!({
                    "address": self.address,
                    "adminAddress": self.admin,
                    "token": token,
                    "manifests": self.manifests,
                });
                format!("{line}\n")
            }
            Output::Table => self.text(),
        }
    }

    fn text(&self) -> String {
        let (intro, header) = match &self.token {
            Shown::None => (
                "No token is needed from this machine.".to_owned(),
                String::new(),
            ),
            Shown::New(token) => (
                format!("Your token, shown once: {}", token.expose()),
                format!(" -H 'Authorization: Bearer {}'", token.expose()),
            ),
            Shown::Kept(file) => (
                "Use a token that you have, or make one: bodhi token create --name NAME".to_owned(),
                format!(" -H \"Authorization: Bearer $(cat '{}')\"", file.display()),
            ),
        };
        let Self {
            address, manifests, ..
        } = self;
        let call = match self.demo {
            true => DEMO_CALL,
            false => "/v1/models",
        };
        format!(
            "Bodhi answers at {address}\n\
             {intro}\n\
             \n\
             Try it:\n  curl {address}{call}{header}\n\
             \n\
             Models come from the YAML files in {}\n",
            manifests.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(token: Shown) -> Banner {
        Banner {
            address: "http://localhost:1135".into(),
            admin: "http://127.0.0.1:1136".into(),
            token,
            manifests: "models".into(),
            demo: false,
        }
    }

    #[test]
    fn the_curl_carries_what_the_gateway_asks_for() {
        let new = banner(Shown::New(Secret::new("bodhi_x"))).text();
        assert!(
            new.contains("curl http://localhost:1135/v1/models -H 'Authorization: Bearer bodhi_x'")
        );
        let kept = banner(Shown::Kept("d/admin-token".into())).text();
        assert!(kept.contains("Bearer $(cat 'd/admin-token')"));
        let none = banner(Shown::None).text();
        assert!(none.contains("curl http://localhost:1135/v1/models\n"));
    }

    #[test]
    fn keys_in_the_environment_bring_their_provider() {
        let documents = from_environment(|name| match name {
            "GEMINI_API_KEY" => Some("a\"quoted key\n".into()),
            "OPENAI_API_KEY" => Some("  ".into()),
            _ => None,
        });
        let labels: Vec<_> = documents.iter().map(|d| d.label.as_str()).collect();
        assert_eq!(labels, ["GEMINI_API_KEY", "deploy/examples/gemini.yaml"]);
        let secret: serde_json::Value = serde_json::from_str(&documents[0].text).unwrap();
        assert_eq!(secret["stringData"]["apiKey"], "a\"quoted key");
    }
}
