# What is known of an image of the catalogue: what its publisher said of it, and says now.

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('cloud', '0007_base_configuration_and_firmware'),
    ]

    operations = [
        migrations.AddField(
            model_name='image',
            name='catalogue',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='image',
            name='fetched_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='image',
            name='looked_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='image',
            name='newer',
            field=models.CharField(blank=True, default='', max_length=63),
        ),
        migrations.AddField(
            model_name='image',
            name='verified',
            field=models.CharField(blank=True, default='', max_length=300),
        ),
    ]
