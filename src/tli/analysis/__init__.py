"""What several tables share: the frame of measured rows, named views, score sets, rank effects, table type."""
