//! `ApiModel`: an upstream provider (design: docs, "ApiModel").

#![expect(
    unreachable_pub,
    reason = "KubeSchema copies each struct, visibility included, into a function body"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "kube takes one printcolumn attribute per column"
)]

use bodhi_proto::provider::Format;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conditions::Condition;
use super::shared::{KeyRef, Period, free_object, is_false};

/// The desired state of an ApiModel.
#[derive(Debug, Clone, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bodhi.dev",
    version = "v1alpha1",
    kind = "ApiModel",
    plural = "apimodels",
    shortname = "am",
    category = "bodhi",
    namespaced,
    derive = "PartialEq",
    doc = "ApiModel is an upstream provider of language models.",
    status = "ApiModelStatus",
    selectable = ".spec.format",
    selectable = ".spec.prefix",
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec.prefix"),
    printcolumn(name = "Models", type_ = "integer", json_path = ".status.models"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "BaseURL",
        type_ = "string",
        json_path = ".spec.baseUrl",
        priority = 1
    ),
    printcolumn(
        name = "Upstream",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"UpstreamHealthy\")].status",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("!has(self.baseUrl) || self.insecureHttp || !self.baseUrl.matches('^[hH][tT][tT][pP]:')")
        .message("http:// sends prompts and keys in the clear: use https://, or set insecureHttp: true")
        .field_path(".baseUrl"),
    validation = Rule::new("self.format != 'anthropic_oauth' || self.auth.type != 'None'")
        .message("anthropic_oauth needs a credential: use SecretRef or Stored")
        .field_path(".auth.type"),
    validation = Rule::new("!self.forwardAll || has(self.prefix)")
        .message("forwardAll needs a prefix")
        .field_path(".prefix")
        .reason(Reason::FieldValueRequired),
    validation = Rule::new("self.forwardAll || (has(self.models) && size(self.models) > 0)")
        .message("list at least one model, or set forwardAll with a prefix")
        .field_path(".models")
        .reason(Reason::FieldValueRequired),
    validation = Rule::new("self.stripPrefix || !has(self.prefix) || !has(self.models) || self.models.all(m, m.startsWith(self.prefix))")
        .message("with stripPrefix: false the prefix is part of the ids: each must start with it")
        .field_path(".models"),
    validation = Rule::new("!has(self.features) || self.format == 'openai'")
        .message("only format openai has features to choose")
        .field_path(".features")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(self.outputLimitField) || self.format == 'openai'")
        .message("only format openai has a choice of field")
        .field_path(".outputLimitField")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("self.format == 'gemini' || !has(self.extraHeaders) || !self.extraHeaders.exists(h, h.name.lowerAscii() == 'x-goog-user-project')")
        .message("x-goog-user-project may be set for format gemini only")
        .field_path(".extraHeaders")
)]
pub struct ApiModelSpec {
    /// The API dialect that the provider speaks. Cannot be changed.
    #[serde(with = "format_word")]
    #[schemars(schema_with = "format_schema")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("format cannot be changed: create another ApiModel"))]
    pub format: Format,

    /// Where the API lives, with its version segment: `https://openrouter.ai/api/v1`.
    /// Absent: the format's canonical address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[hH][tT][tT][pP][sS]?://[^/?#]')")
            .message("must be an absolute http or https URL with a host, such as https://api.example.com/v1"),
        validation = Rule::new("!self.matches('^[^:/]+://[^/]*@')")
            .message("must not carry a user name or password: use auth"),
        validation = Rule::new("!self.contains('?') && !self.contains('#')")
            .message("must not have a query or fragment"),
        validation = Rule::new(r"!self.matches('[\\s\\\\]')")
            .message("must not hold blanks or backslashes"),
        validation = Rule::new(r"!self.matches('^[hH][tT][tT][pP][sS]?://[^/?#]') || self.matches('^[^:/]+://[^/]*@') || self.matches('^[^:/]+://([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?([/?#]|$)')")
            .message("must name a host (an IPv6 address in brackets), and if a port, a number up to 65535")
    )]
    pub base_url: Option<String>,

    /// Where the provider's key comes from.
    pub auth: Auth,

    /// Put before each of the provider's ids: `openrouter/`. Unique in its family.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._:@/+~-]+$"))]
    pub prefix: Option<String>,

    /// Serve every id under the prefix.
    #[serde(default)]
    pub forward_all: bool,

    /// False: the prefix is part of the provider's ids (`claude-`) and travels upstream.
    #[serde(default = "yes")]
    pub strip_prefix: bool,

    /// The endpoints that the provider has (format openai only; default all). One left out
    /// answers 501.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub features: Option<Vec<Feature>>,

    /// The field that carries an output limit which the request did not name (format openai
    /// only). Default: max_completion_tokens at api.openai.com, else max_tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_limit_field: Option<OutputLimitField>,

    /// Ids as the provider spells them. With forwardAll: the ones that listings show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 50),
        inner(length(min = 1, max = 256), regex(pattern = r"^[^\x00-\x1f\x7f]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub models: Vec<String>,

    /// Headers added to each request; the client's value wins, `anthropic-beta` is joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[x_kube(validation = Rule::new("self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))")
        .message("each header once: names are compared without regard to case"))]
    pub extra_headers: Vec<Header>,

    /// Merged into request bodies that generate or embed; the client's scalars and arrays
    /// win. At most 16 KiB; not model, stream, messages, input or contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub extra_body: Option<Map<String, Value>>,

    /// Reads the provider's catalogue now and then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,

    /// How the provider's health is learnt.
    #[serde(default)]
    pub health_check: HealthCheck,

    /// How long to wait for the provider. There is no total: streams may be long.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// Further attempts, only of what was never written to the provider.
    #[serde(default)]
    pub retry: Retry,

    /// Requests in flight to this provider, per data plane.
    #[serde(default = "max_in_flight")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight: u32,

    /// Prices in USD per million tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 50),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["model"])
    )]
    pub pricing: Vec<Price>,

    /// Allows an http:// baseUrl.
    #[serde(default)]
    pub insecure_http: bool,

    /// PEM roots that sign the provider's certificate, instead of the system's: a Secret
    /// with the credential label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<KeyRef>,

    /// Stops serving; the names stay claimed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
}

/// Where a provider's key comes from.
#[derive(Debug, Clone, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) == (self.type == 'SecretRef')")
    .message("secretRef is needed with type SecretRef, and only there")
    .field_path(".secretRef"))]
pub struct Auth {
    /// SecretRef: a Secret's key. Stored: typed into the console or `bodhi key set`.
    /// None: the provider wants none.
    #[serde(rename = "type")]
    pub type_: AuthType,
    /// The Secret's key, with type SecretRef. The Secret needs the label
    /// `bodhi.dev/credential: "true"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
}

/// The sources of a provider's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AuthType {
    /// A key of a Secret in the object's namespace.
    SecretRef,
    /// A key in the controller's store.
    Stored,
    /// No credential is sent.
    None,
}

/// Endpoints of a provider that speaks the openai format.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Feature {
    /// `/chat/completions`
    Chat,
    /// `/completions`
    Completions,
    /// `/embeddings`
    Embeddings,
}

/// The request field that carries an output limit in the openai format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputLimitField {
    /// The older field, which most servers know.
    MaxTokens,
    /// The newer field, the only one that OpenAI's reasoning models take.
    MaxCompletionTokens,
}

/// A header added to requests.
#[derive(Debug, Clone, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(self.name.lowerAscii() in ['authorization', 'x-api-key', 'x-goog-api-key', 'api-key', 'proxy-authorization', 'cookie', 'host', 'content-length', 'content-type', 'transfer-encoding', 'connection', 'keep-alive', 'te', 'trailer', 'upgrade', 'expect']) && !self.name.lowerAscii().startsWith('x-bodhi-')")
    .message("this header belongs to the gateway or to auth and cannot be set here")
    .field_path(".name")
    .reason(Reason::FieldValueForbidden))]
pub struct Header {
    /// The field name, an HTTP token.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    )]
    pub name: String,
    /// The field value: visible ASCII, blanks and tabs.
    #[schemars(length(max = 2048), regex(pattern = r"^[\t -~]*$"))]
    pub value: String,
}

/// Reading the provider's catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Discovery {
    /// Whether it is read at all.
    #[serde(default)]
    pub enabled: bool,
    /// How often.
    #[serde(default = "hourly")]
    pub interval: Period,
}

/// How a provider's health is learnt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthCheck {
    /// Passive: from traffic. Catalogue: by listing models. OneToken: by generating one.
    #[serde(default)]
    pub mode: HealthCheckMode,
}

/// The ways of [`HealthCheck`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HealthCheckMode {
    /// From traffic alone.
    #[default]
    Passive,
    /// By listing models.
    Catalogue,
    /// By generating one token.
    OneToken,
}

/// How long to wait for a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// TCP connect, and again for TLS.
    #[serde(default = "Timeouts::connect")]
    pub connect: Period,
    /// From the request's last byte to the response's first.
    #[serde(default = "Timeouts::first_byte")]
    pub first_byte: Period,
    /// Between two pieces of a response.
    #[serde(default = "Timeouts::idle")]
    pub idle: Period,
}

impl Timeouts {
    fn connect() -> Period {
        Period::from_secs(5)
    }

    fn first_byte() -> Period {
        Period::from_secs(300)
    }

    fn idle() -> Period {
        Period::from_secs(120)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Self::connect(),
            first_byte: Self::first_byte(),
            idle: Self::idle(),
        }
    }
}

/// Further attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retry {
    /// Attempts after the first.
    #[serde(default = "Retry::attempts")]
    #[schemars(range(min = 0, max = 5))]
    pub attempts: u32,
}

impl Retry {
    fn attempts() -> u32 {
        1
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: Self::attempts(),
        }
    }
}

/// What a model costs, in USD per million tokens, as decimal text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// The provider's id.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// Prompt tokens.
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"))]
    pub input_per_million: String,
    /// Completion tokens.
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"))]
    pub output_per_million: String,
    /// Prompt tokens that the provider had cached; absent: as inputPerMillion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"))]
    pub cached_input_per_million: Option<String>,
}

/// The observed state of an ApiModel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiModelStatus {
    /// The generation that was judged last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed, UpstreamHealthy, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// How many ids it serves (listed ones, with forwardAll).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub models: Option<u32>,
}

fn yes() -> bool {
    true
}

fn hourly() -> Period {
    Period::from_secs(3600)
}

fn max_in_flight() -> u32 {
    500
}

fn format_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Format::ALL.map(Format::as_str) })
}

/// `spec.format` as the word that [`Format`] has for it.
mod format_word {
    use std::borrow::Cow;

    use bodhi_proto::provider::Format;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        format: &Format,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(format.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Format, D::Error> {
        let word = Cow::<'de, str>::deserialize(deserializer)?;
        Format::parse(&word).ok_or_else(|| D::Error::custom(format!("unknown format {word:?}")))
    }
}
