//! The bundled model of vectors: that texts that mean the same lie together, and that nothing makes its thread panic.

use lumbung_provider::engine::mistral::MistralEmbedder;
use serde_json::{Value, json};

use crate::support::{bundled, embed};

async fn model() -> MistralEmbedder {
    MistralEmbedder::load(bundled("padi-embed")).await.unwrap()
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

async fn vectors(model: &MistralEmbedder, input: Value) -> Vec<Vec<f32>> {
    embed(model, json!({"input": input})).await.unwrap().1
}

#[tokio::test]
async fn wordings_of_a_question_lie_together() {
    let model = model().await;
    let texts = json!([
        "What is a lumbung?",
        "Tell me what a lumbung is.",
        "What is the capital of France?",
        "Which city is the capital of France?",
        "Count from 1 to 10.",
        "Can you count from 1 to 10?",
    ]);
    let vectors = vectors(&model, texts).await;
    for (at, vector) in vectors.iter().enumerate() {
        assert!((dot(vector, vector) - 1.0).abs() < 1e-4, "length one");
        let near = (0..vectors.len())
            .filter(|other| *other != at)
            .max_by(|a, b| dot(vector, &vectors[*a]).total_cmp(&dot(vector, &vectors[*b])));
        assert_eq!(near, Some(at ^ 1), "the nearest of text {at}");
    }
}

#[tokio::test]
async fn a_text_has_one_vector_whatever_is_asked_beside_it() {
    let model = model().await;
    let (count, alone) = embed(&model, json!({"input": "rice"})).await.unwrap();
    assert!(count > 0);
    let (both, beside) =
        embed(&model, json!({"input": ["a much longer text about something else", "rice"]})).await.unwrap();
    assert!(both > count);
    assert_eq!(alone[0], beside[1]);
    let (_, short) = embed(&model, json!({"input": "rice", "dimensions": 16})).await.unwrap();
    let length = dot(&alone[0][..16], &alone[0][..16]).sqrt();
    assert_eq!(short[0].len(), 16);
    assert!(short[0].iter().zip(&alone[0]).all(|(short, whole)| (short - whole / length).abs() < 1e-6));
}

#[tokio::test]
async fn a_single_token_is_no_panic_and_many_at_once_are_none() {
    let model = model().await;
    let (count, single) = embed(&model, json!({"input": [[7], [7, 7], [1023]]})).await.unwrap();
    assert_eq!(count, 4);
    assert_eq!(single[0], single[1], "read twice over");
    assert!(single.iter().all(|vector| (dot(vector, vector) - 1.0).abs() < 1e-3));
    let expected = vectors(&model, json!("Sawah")).await;
    let asked = (0..16).map(|_| vectors(&model, json!("Sawah")));
    assert!(futures_util::future::join_all(asked).await.iter().all(|vectors| *vectors == expected));
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let model = model().await;
    for (body, param) in [
        (json!({"input": "x", "dimensions": 129}), "dimensions"),
        (json!({"input": [[1024]]}), "input"),
        (json!({"input": "x ".repeat(3000)}), "messages"), // the endpoint's own name for it is given by whoever knows the endpoint
    ] {
        let refused = embed(&model, body.clone()).await.unwrap_err();
        assert_eq!(refused.param.as_deref(), Some(param));
    }
}
