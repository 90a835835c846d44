"""The tutorial: each test tells, in a sentence, something that a customer may count on."""
