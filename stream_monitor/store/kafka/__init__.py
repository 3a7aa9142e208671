"""State in Kafka: what a replica commits goes to topics, in one transaction with its positions."""
