"""What one does with a trained model: functions whose first argument is the model."""
