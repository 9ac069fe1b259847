//! OpenRouter's wishes about who serves: `provider`, `models`, and the suffixes `:floor` and `:nitro` of a model's name.
//! Source: its documentation of provider routing and model fallbacks. Members that it does not describe pass.

use std::borrow::Cow;

use super::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::money::NanoUsd;

/// The most providers that `order`, `only` or `ignore` may name.
const MAX_NAMED: usize = 64;
/// The longest name.
const MAX_NAME: usize = 256;
/// The most models to fall back on.
pub const MAX_FALLBACKS: usize = 8;
/// The quantizations that OpenRouter knows.
pub const QUANTIZATIONS: [&str; 12] =
    ["int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"];

/// What a request says about the providers that may serve it. The default asks for nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Providers to be tried first, in order: ids, or names, each of which may be several providers'.
    pub order: Vec<String>,
    /// The only providers that may serve; empty for any.
    pub only: Vec<String>,
    /// Providers that may not.
    pub ignore: Vec<String>,
    /// Whether others than those in `order` may serve, or, without it, another than the first choice.
    pub allow_fallbacks: bool,
    /// What matters most, where not everything in balance.
    pub sort: Option<Sort>,
    /// Whether `sort` looks at all models of the request together, instead of one after the other.
    pub across_models: bool,
    /// What the client pays at most.
    pub max_price: MaxPrice,
    /// Quantizations that will do, of [`QUANTIZATIONS`]; empty for any.
    pub quantizations: Vec<&'static str>,
    /// Tokens per second that should be reached; those who do not come last.
    pub preferred_min_throughput: Percentiles,
    /// Seconds to the first token that should not be exceeded; those who do come last.
    pub preferred_max_latency: Percentiles,
    /// A promise about data that providers would have to give: the name of the member that asks for it.
    pub promise: Option<&'static str>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            only: Vec::new(),
            ignore: Vec::new(),
            allow_fallbacks: true,
            sort: None,
            across_models: false,
            max_price: MaxPrice::default(),
            quantizations: Vec::new(),
            preferred_min_throughput: Percentiles::default(),
            preferred_max_latency: Percentiles::default(),
            promise: None,
        }
    }
}

/// What a provider may ask at most, in dollars per million tokens. Nobody here charges by request, image or second of
/// audio, so caps on those are always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxPrice {
    /// For prompt tokens.
    pub prompt: Option<NanoUsd>,
    /// For completion tokens.
    pub completion: Option<NanoUsd>,
}

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The lowest price.
    Price,
    /// The most tokens per second.
    Throughput,
    /// The shortest time to the first token.
    Latency,
}

/// Bounds on what shares of a provider's jobs reach. A plain number is one for half of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// In hundredths: 50, 75, 90 and 99.
    pub bounds: [Option<f64>; 4],
}

impl Percentiles {
    /// The percentiles that can be named, with their shares.
    pub const NAMED: [(&'static str, f64); 4] = [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p99", 0.99)];

    /// The shares that have a bound, and the bound.
    pub fn iter(&self) -> impl Iterator<Item = (f64, f64)> {
        Self::NAMED.iter().zip(self.bounds).filter_map(|((_, share), bound)| Some((*share, bound?)))
    }

    /// Whether there is no bound.
    pub fn is_empty(&self) -> bool {
        self.bounds.iter().all(Option::is_none)
    }
}

impl Routing {
    /// Reads `provider`.
    pub(super) fn parse(provider: Option<Value<'_>>) -> Result<Self, InvalidRequest> {
        let Some(provider) = provider else { return Ok(Self::default()) };
        let members = provider.object("provider")?;
        let (sort, across_models) = parse_sort(members.get("sort"))?;
        members.get("require_parameters").map(|v| v.boolean("provider.require_parameters")).transpose()?;
        Ok(Self {
            order: names(&members, "order")?,
            only: names(&members, "only")?,
            ignore: names(&members, "ignore")?,
            allow_fallbacks: boolean(&members, "allow_fallbacks", true)?,
            sort,
            across_models,
            max_price: parse_max_price(members.get("max_price"))?,
            quantizations: parse_quantizations(&members)?,
            preferred_min_throughput: percentiles(&members, "preferred_min_throughput")?,
            preferred_max_latency: percentiles(&members, "preferred_max_latency")?,
            promise: parse_promise(&members)?,
        })
    }

    /// Whether it asks for nothing that would make one provider another than the next, the price cap aside.
    pub fn is_plain(&self) -> bool {
        self.order.is_empty()
            && self.only.is_empty()
            && self.ignore.is_empty()
            && self.sort.is_none()
            && self.quantizations.is_empty()
            && self.preferred_min_throughput.is_empty()
            && self.preferred_max_latency.is_empty()
    }
}

/// A model's name without a suffix that says what matters most, and what that is.
pub fn split_suffix(model: &str) -> (&str, Option<Sort>) {
    match model.rsplit_once(':') {
        Some((name, "floor")) if !name.is_empty() => (name, Some(Sort::Price)),
        Some((name, "nitro")) if !name.is_empty() => (name, Some(Sort::Throughput)),
        _ => (model, None),
    }
}

/// `models`: what to fall back on, in order.
pub(super) fn parse_models<'a>(value: Option<Value<'a>>) -> Result<Vec<Cow<'a, str>>, InvalidRequest> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let items = value.array("models")?;
    if items.len() > MAX_FALLBACKS {
        return Err(too_many("models", items.len(), MAX_FALLBACKS));
    }
    let name = |(at, item)| {
        let param = format!("models[{at}]");
        let model = Value::new(item).string(&param)?;
        match model.is_empty() || model.len() > MAX_NAME {
            true => Err(InvalidRequest::value(&param, format!("'{param}' must be the name of a model."))),
            false => Ok(model),
        }
    };
    items.into_iter().enumerate().map(name).collect()
}

fn names(members: &Members<'_>, name: &str) -> Result<Vec<String>, InvalidRequest> {
    let Some(value) = members.get(name) else { return Ok(Vec::new()) };
    let param = format!("provider.{name}");
    let items = value.array(&param)?;
    if items.len() > MAX_NAMED {
        return Err(too_many(&param, items.len(), MAX_NAMED));
    }
    let provider = |(at, item)| {
        let param = format!("{param}[{at}]");
        let provider = Value::new(item).string(&param)?;
        match provider.is_empty() || provider.len() > MAX_NAME {
            true => Err(InvalidRequest::value(&param, format!("'{param}' must be a provider's id or name."))),
            false => Ok(provider.into_owned()),
        }
    };
    items.into_iter().enumerate().map(provider).collect()
}

fn boolean(members: &Members<'_>, name: &str, default: bool) -> Result<bool, InvalidRequest> {
    members.get(name).map_or(Ok(default), |value| value.boolean(&format!("provider.{name}")))
}

/// A word, or an object with one (`by`) and whether models are told apart (`partition`).
fn parse_sort(value: Option<Value<'_>>) -> Result<(Option<Sort>, bool), InvalidRequest> {
    const EXPECTED: &str = "'price', 'throughput' or 'latency', or an object with 'by' and 'partition'";
    let Some(value) = value else { return Ok((None, false)) };
    if value.is_string() {
        return Ok((Some(parse_sort_by(value, "provider.sort")?), false));
    }
    let members = value.object("provider.sort").map_err(|_| InvalidRequest::wrong_type("provider.sort", EXPECTED))?;
    let by = members.get("by").map(|by| parse_sort_by(by, "provider.sort.by")).transpose()?;
    let across_models = match members.get("partition") {
        None => false,
        Some(partition) => match &*partition.string("provider.sort.partition")? {
            "model" => false,
            "none" => true,
            _ => {
                return Err(InvalidRequest::value(
                    "provider.sort.partition",
                    "'provider.sort.partition' must be 'model' or 'none'.",
                ));
            }
        },
    };
    Ok((by, across_models))
}

fn parse_sort_by(value: Value<'_>, param: &str) -> Result<Sort, InvalidRequest> {
    match &*value.string(param)? {
        "price" => Ok(Sort::Price),
        "throughput" => Ok(Sort::Throughput),
        "latency" => Ok(Sort::Latency),
        _ => Err(InvalidRequest::value(param, format!("'{param}' must be 'price', 'throughput' or 'latency'."))),
    }
}

fn parse_max_price(value: Option<Value<'_>>) -> Result<MaxPrice, InvalidRequest> {
    let Some(prices) = value else { return Ok(MaxPrice::default()) };
    let prices = prices.object("provider.max_price")?;
    let price =
        |name: &str| prices.get(name).map(|value| value.dollars(&format!("provider.max_price.{name}"))).transpose();
    for by_other_measures in ["request", "image", "audio"] {
        price(by_other_measures)?;
    }
    Ok(MaxPrice { prompt: price("prompt")?, completion: price("completion")? })
}

fn parse_quantizations(members: &Members<'_>) -> Result<Vec<&'static str>, InvalidRequest> {
    let Some(value) = members.get("quantizations") else { return Ok(Vec::new()) };
    let known = |(at, item)| {
        let param = format!("provider.quantizations[{at}]");
        let wanted = Value::new(item).string(&param)?;
        let known = QUANTIZATIONS.into_iter().find(|known| *known == wanted);
        known.ok_or_else(|| {
            InvalidRequest::value(&param, format!("'{param}' must be one of {}.", QUANTIZATIONS.join(", ")))
        })
    };
    let items = value.array("provider.quantizations")?;
    if items.len() > MAX_NAMED {
        return Err(too_many("provider.quantizations", items.len(), MAX_NAMED));
    }
    items.into_iter().enumerate().map(known).collect()
}

/// A number, or an object of numbers by percentile.
fn percentiles(members: &Members<'_>, name: &str) -> Result<Percentiles, InvalidRequest> {
    let Some(value) = members.get(name) else { return Ok(Percentiles::default()) };
    let param = format!("provider.{name}");
    let number = |value: Value<'_>, param: &str| value.number(param, 0.0..=1e9);
    if value.is_number() {
        return Ok(Percentiles { bounds: [Some(number(value, &param)?), None, None, None] });
    }
    let members = value.object(&param).map_err(|_| {
        InvalidRequest::wrong_type(&param, "a number, or an object with numbers as 'p50', 'p75', 'p90' and 'p99'")
    })?;
    let mut bounds = [None; 4];
    for (bound, (percentile, _)) in bounds.iter_mut().zip(Percentiles::NAMED) {
        *bound = members.get(percentile).map(|v| number(v, &format!("{param}.{percentile}"))).transpose()?;
    }
    Ok(Percentiles { bounds })
}

/// Promises that no provider can give here: a stranger's word on what happens on its machine proves nothing.
fn parse_promise(members: &Members<'_>) -> Result<Option<&'static str>, InvalidRequest> {
    let denied = match members.get("data_collection") {
        None => false,
        Some(value) => match &*value.string("provider.data_collection")? {
            "allow" => false,
            "deny" => true,
            _ => {
                return Err(InvalidRequest::value(
                    "provider.data_collection",
                    "'provider.data_collection' must be 'allow' or 'deny'.",
                ));
            }
        },
    };
    let zdr = boolean(members, "zdr", false)?;
    let distillable = boolean(members, "enforce_distillable_text", false)?;
    let asked = [
        (denied, "provider.data_collection"),
        (zdr, "provider.zdr"),
        (distillable, "provider.enforce_distillable_text"),
    ];
    Ok(asked.into_iter().find_map(|(is_asked, name)| is_asked.then_some(name)))
}

fn too_many(param: &str, given: usize, most: usize) -> InvalidRequest {
    InvalidRequest {
        message: format!("'{param}' holds {given} items; at most {most} are allowed."),
        param: Some(param.to_owned()),
        code: Some("array_above_max_length"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChatRequest;
    use super::*;

    fn parse(members: &str) -> Result<(Routing, Vec<String>), Option<String>> {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{members}}}"#);
        let request = ChatRequest::parse(body.as_bytes()).map_err(|error| error.param)?;
        Ok((request.routing.clone(), request.fallbacks.iter().map(|name| name.to_string()).collect()))
    }

    fn provider(wishes: &str) -> Result<Routing, Option<String>> {
        parse(&format!(r#","provider":{wishes}"#)).map(|(routing, _)| routing)
    }

    #[test]
    fn every_wish_is_read() {
        let routing = provider(
            r#"{"order":["a","b"],"only":["a","b","c"],"ignore":["d"],"allow_fallbacks":false,"require_parameters":true,
               "data_collection":"allow","zdr":false,"sort":{"by":"latency","partition":"none"},
               "quantizations":["int4","bf16"],"preferred_min_throughput":{"p50":100,"p90":50.5},"preferred_max_latency":3,
               "max_price":{"prompt":0.1,"completion":"2.5","request":0,"image":1,"audio":"0.5"},"made_up":{"x":1}}"#,
        )
        .expect("valid wishes");
        let expected = Routing {
            order: vec!["a".into(), "b".into()],
            only: vec!["a".into(), "b".into(), "c".into()],
            ignore: vec!["d".into()],
            allow_fallbacks: false,
            sort: Some(Sort::Latency),
            across_models: true,
            max_price: MaxPrice { prompt: "0.1".parse().ok(), completion: "2.5".parse().ok() },
            quantizations: vec!["int4", "bf16"],
            preferred_min_throughput: Percentiles { bounds: [Some(100.0), None, Some(50.5), None] },
            preferred_max_latency: Percentiles { bounds: [Some(3.0), None, None, None] },
            promise: None,
        };
        assert_eq!(routing, expected);
        assert!(!routing.is_plain());
        assert_eq!(routing.preferred_min_throughput.iter().collect::<Vec<_>>(), [(0.5, 100.0), (0.9, 50.5)]);
    }

    #[test]
    fn nothing_asked_is_nothing_wished() {
        for wishes in ["null", "{}", r#"{"sort":null,"order":null,"only":[],"max_price":null}"#, r#"{"other":7}"#] {
            let routing = provider(wishes).expect(wishes);
            assert_eq!(routing, Routing::default(), "{wishes}");
            assert!(routing.is_plain());
        }
        assert_eq!(parse(r#","models":null"#), Ok((Routing::default(), Vec::new())));
    }

    #[test]
    fn promises_that_nobody_can_give_are_named() {
        for (wishes, promise) in [
            (r#"{"zdr":true}"#, "provider.zdr"),
            (r#"{"data_collection":"deny"}"#, "provider.data_collection"),
            (r#"{"enforce_distillable_text":true}"#, "provider.enforce_distillable_text"),
        ] {
            assert_eq!(provider(wishes).map(|routing| routing.promise), Ok(Some(promise)));
        }
    }

    #[test]
    fn a_wrong_wish_is_named() {
        let many = format!(r#"{{"only":[{}]}}"#, vec![r#""x""#; 65].join(","));
        for (wishes, param) in [
            ("7", "provider"),
            (r#"{"order":"a"}"#, "provider.order"),
            (r#"{"only":[1]}"#, "provider.only[0]"),
            (r#"{"ignore":["a",""]}"#, "provider.ignore[1]"),
            (&many, "provider.only"),
            (r#"{"allow_fallbacks":"no"}"#, "provider.allow_fallbacks"),
            (r#"{"require_parameters":1}"#, "provider.require_parameters"),
            (r#"{"data_collection":"maybe"}"#, "provider.data_collection"),
            (r#"{"data_collection":true}"#, "provider.data_collection"),
            (r#"{"zdr":"yes"}"#, "provider.zdr"),
            (r#"{"sort":"speed"}"#, "provider.sort"),
            (r#"{"sort":7}"#, "provider.sort"),
            (r#"{"sort":{"by":"speed"}}"#, "provider.sort.by"),
            (r#"{"sort":{"by":"price","partition":"all"}}"#, "provider.sort.partition"),
            (r#"{"quantizations":["int3"]}"#, "provider.quantizations[0]"),
            (r#"{"quantizations":"int4"}"#, "provider.quantizations"),
            (r#"{"preferred_min_throughput":"fast"}"#, "provider.preferred_min_throughput"),
            (r#"{"preferred_max_latency":{"p90":-1}}"#, "provider.preferred_max_latency.p90"),
            (r#"{"max_price":1}"#, "provider.max_price"),
            (r#"{"max_price":{"prompt":true}}"#, "provider.max_price.prompt"),
            (r#"{"max_price":{"prompt":-1}}"#, "provider.max_price.prompt"),
            (r#"{"max_price":{"completion":"cheap"}}"#, "provider.max_price.completion"),
            (r#"{"max_price":{"completion":1e99}}"#, "provider.max_price.completion"),
            (r#"{"max_price":{"image":"x"}}"#, "provider.max_price.image"),
        ] {
            assert_eq!(provider(wishes), Err(Some(param.to_owned())), "{wishes}");
        }
        for (models, param) in [
            (r#""a""#, "models"),
            (r#"["a",7]"#, "models[1]"),
            (r#"[""]"#, "models[0]"),
            (r#"["a","b","c","d","e","f","g","h","i"]"#, "models"),
        ] {
            assert_eq!(parse(&format!(r#","models":{models}"#)), Err(Some(param.to_owned())), "{models}");
        }
    }

    #[test]
    fn models_are_what_to_fall_back_on() {
        assert_eq!(
            parse(r#","models":["b","c:floor"]"#).map(|(_, models)| models),
            Ok(vec!["b".into(), "c:floor".into()])
        );
        let body = br#"{"models":["a","b"],"messages":[{"role":"user","content":"x"}]}"#;
        let request = ChatRequest::parse(body).expect("the first of 'models' stands for 'model'");
        assert_eq!((&*request.model, request.fallbacks.len()), ("a", 1));
        let body = br#"{"models":[],"messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(ChatRequest::parse(body).expect_err("no model").param.as_deref(), Some("model"));
    }

    #[test]
    fn suffixes_say_what_matters() {
        assert_eq!(split_suffix("org/m:floor"), ("org/m", Some(Sort::Price)));
        assert_eq!(split_suffix("org/m:nitro"), ("org/m", Some(Sort::Throughput)));
        for plain in ["org/m", "llama3:8b", ":floor", "m:Floor"] {
            assert_eq!(split_suffix(plain), (plain, None));
        }
    }

    #[test]
    fn a_price_cap_is_exact() {
        let cap = MaxPrice { prompt: "0.0000001".parse().ok(), completion: "2.5".parse().ok() };
        let routing = provider(r#"{"max_price":{"prompt":1e-07,"completion":"2.5","image":1}}"#);
        assert_eq!(routing.map(|routing| routing.max_price), Ok(cap));
    }
}
