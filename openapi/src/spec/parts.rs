//! What the operations of the operator's API have in common: who may, lists by page, acts that are done once.

use utoipa::ToSchema;
use utoipa::openapi::Required;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;

use super::{JSON, answer, error, not_again, operation, reference, wait, with_header, with_request_id};

const TAG: &str = "Operator";

/// What any operator may look at.
pub(super) fn look(id: &str, summary: &str) -> OperationBuilder {
    operation(id, summary, TAG)
        .security(SecurityRequirement::new("operator", Vec::<String>::new()))
        .response("400", error("A parameter is wrong; `param` names it."))
        .response("401", unauthenticated())
        .response("403", error("The token's role does not allow this."))
        .response("503", wait(error("The books cannot be reached, or are busy.")))
}

/// A list as JSON.
pub(super) fn list<T: ToSchema>(id: &str, summary: &str) -> OperationBuilder {
    look(id, summary)
        .parameter(query("limit", "Items at most.", integer(1, Some(1000), Some(100))))
        .parameter(query("after", "The `next_cursor` of the page before.", text(None)))
        .response("200", with_request_id(page::<T>()))
}

/// A list as JSON or CSV.
pub(super) fn list_or_csv<T: ToSchema>(id: &str, summary: &str) -> OperationBuilder {
    let csv = ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build();
    let format = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["json", "csv"])).build();
    let response = page::<T>().content("text/csv", csv);
    let response = with_header(response, "x-next-cursor", Type::String, "With CSV: for `after`, if more follows.");
    list::<T>(id, summary)
        .parameter(query("format", "The same as the header `accept`, and before it.", format))
        .response("200", with_request_id(response))
}

/// A call that changes something.
pub(super) fn act(id: &str, summary: &str) -> OperationBuilder {
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible characters. For 30 days a repeated call with the same key acts no second time, and is answered as the first \
             one was, with the header `idempotent-replayed: true`.",
        ))
        .schema(Some(
            ObjectBuilder::new().schema_type(Type::String).max_length(Some(255)).pattern(Some("^[!-~]+$")).build(),
        ))
        .build();
    look(id, summary)
        .parameter(key)
        .response("408", not_again(error("The body did not come in time.")))
        .response("413", error("`request_too_large`"))
        .response("422", error("`idempotency_key_reused`: the key was used for another request."))
}

/// A call that changes one thing.
pub(super) fn act_on(operation: &str, summary: &str, of: (&str, &str, &str)) -> OperationBuilder {
    act(operation, summary).parameter(id(of)).response("404", error("There is none with this id, or it is closed."))
}

/// What a call that changes something answers.
pub(super) fn done<T: ToSchema>(description: &str) -> ResponseBuilder {
    let replayed = "`true` where this is the answer to an earlier call with the same `Idempotency-Key`.";
    with_header(with_request_id(answer::<T>(description)), "idempotent-replayed", Type::String, replayed)
}

/// A query parameter that may be left out.
pub(super) fn query(name: &str, description: &str, schema: Object) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
}

/// Text, perhaps of a pattern.
pub(super) fn text(pattern: Option<&str>) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(512)).pattern(Some(r"^[^\x00]*$"));
    match pattern {
        Some(pattern) => ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build(),
        None => text.build(),
    }
}

/// A whole number.
pub(super) fn integer(least: i64, most: Option<i64>, default: Option<i64>) -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(least))
        .maximum(most)
        .default(default.map(Into::into))
        .build()
}

/// Unix microseconds.
pub(super) fn moment() -> Object {
    integer(0, Some(i64::MAX / 2), None)
}

/// The id in the path.
pub(super) fn id((description, pattern, example): (&str, &str, &str)) -> ParameterBuilder {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(text(Some(pattern))))
        .example(Some(example.into()))
}

fn page<T: ToSchema>() -> ResponseBuilder {
    let list = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["list"])).build();
    let cursor = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some("For `after`, to get the next page."))
        .build();
    let schema = ObjectBuilder::new()
        .property("object", list)
        .property("data", ArrayBuilder::new().items(reference::<T>()).build())
        .property("has_more", Object::with_type(Type::Boolean))
        .property("next_cursor", cursor)
        .required("object")
        .required("data")
        .required("has_more")
        .required("next_cursor")
        .build();
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description("A page, oldest first.").content(JSON, content)
}

fn unauthenticated() -> ResponseBuilder {
    error("No token, or one that is not taken.").header(
        "www-authenticate",
        HeaderBuilder::new().schema(Some(Object::with_type(Type::String))).description(Some("`Bearer`.")).build(),
    )
}
