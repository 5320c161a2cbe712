"""The operator: TaskType and QueueSet objects become rows and topology."""
