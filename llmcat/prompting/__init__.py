"""Item and menu to a request: templates, few-shot examples, the builder."""
